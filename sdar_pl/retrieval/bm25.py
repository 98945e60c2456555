"""BM25: passages found by their words, in this process. Its index is a folder of memory-mapped arrays.

The score of a word in a passage is computed when the index is built (bm25s; Lù 2024), so that a query only sums
postings (postings.py). Left out: stemming, phrases, and languages whose words are not set apart by spaces.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from sdar_pl.errors import UserError
from sdar_pl.retrieval.base import Passage, PassageRetriever
from sdar_pl.retrieval.corpus import Offsets, scan
from sdar_pl.retrieval.index_folder import Shown, open_index
from sdar_pl.retrieval.postings import Postings
from sdar_pl.retrieval.words import words


class Passages(Protocol):
    """Passages by number: a list in memory, or a corpus on disk."""

    def __getitem__(self, number: int, /) -> Passage: ...


class BM25(PassageRetriever):
    """BM25 over a JSONL corpus, one passage a line: {"id", "title", "text"} or {"id", "contents"}.

    Args:
        corpus: the file.
        index: the folder of the index; null means the corpus's name with ".bm25" behind it. It is built once, and again
            when the corpus has changed.

    Raises ``UserError`` without the package bm25s (extra ``search``), for a bad corpus (corpus.py), and for an index
    folder that holds something else.
    """

    def __init__(self, corpus: str, index: str | None = None) -> None:
        passages, folder = open_index(corpus, index, "bm25", _build)
        self._passages: Passages = passages
        self._postings = Postings(_bm25s().BM25.load(folder, mmap=True, show_progress=False))

    @classmethod
    def of(cls, passages: Sequence[Passage]) -> BM25:
        """An index in memory. Raises ``UserError`` for no passages."""
        if not passages:
            raise UserError("no passages; BM25 needs at least one")
        made = cls.__new__(cls)
        made._passages = passages
        made._postings = Postings(_indexed(Ids(passages)))
        return made

    def retrieve(self, queries: Sequence[str], topk: int) -> list[list[Passage]]:
        """At most ``topk`` passages for each query. A passage that shares no word with the query is not found."""
        return [
            [replace(self._passages[number], score=score) for number, score in self._postings.best(asked, topk)]
            for asked in (list(dict.fromkeys(words(query))) for query in queries)
        ]


class Ids:
    """Passages as numbers of their words; the vocabulary grows with them."""

    def __init__(self, passages: Iterable[Passage] = ()) -> None:
        self.rows: list[list[int]] = []
        self.vocabulary: dict[str, int] = {}
        for passage in passages:
            self.add(passage)

    def add(self, passage: Passage) -> None:
        known = self.vocabulary
        self.rows.append([known.setdefault(word, len(known)) for word in words(f"{passage.title} {passage.text}")])


def _bm25s() -> Any:
    try:
        import bm25s
    except ImportError as error:
        raise UserError("BM25 needs the package bm25s; pip install 'sdar_pl[search]'") from error
    return bm25s


def _indexed(ids: Ids) -> Any:
    index = _bm25s().BM25()
    ids.vocabulary.setdefault("", len(ids.vocabulary))
    index.index((ids.rows, ids.vocabulary), show_progress=False)
    return index


def _build(corpus: Path, folder: Path, progress: Shown) -> Offsets:
    ids = Ids()
    offsets = scan(corpus, ids.add, progress)
    _indexed(ids).save(folder, show_progress=False)
    return offsets
