"""The search engine: BM25 as Lucene's, over stemmed words (k1 0.9, b 0.4), its index memory-mapped."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sdar_pl.errors import UserError
from sdar_pl.retrieval.postings import Postings

_words = str.split
#: Lucene's English stop words
_STOP = frozenset(
    _words(
        "a an and are as at be but by for if in into is it no not of on or such that the their then there these they "
        "this to was will with"
    )
)
_WORD = re.compile(r"[^\W_]+")
#: longest query in characters; the rest is not read
LONGEST_QUERY = 1000


class Index:
    """Products by number; ``search`` may be called from several threads.

    Raises ``UserError`` without the packages of the extra ``webshop``.
    """

    def __init__(self, bm25: Any) -> None:
        self.bm25 = bm25
        self._postings = Postings(bm25)

    @classmethod
    def build(cls, texts: Iterable[str]) -> Index:
        """Index of the texts, numbered from 0."""
        bm25s, stem = _packages()
        numbers: dict[str, int] = {}  # stem → its number
        known: dict[str, int] = {}  # word → its stem's number; −1 for a stop word
        documents = []
        for text in texts:
            document = []
            for word in _WORD.findall(text.lower()):
                number = known.get(word)
                if number is None:
                    number = -1 if word in _STOP else numbers.setdefault(stem(word), len(numbers))
                    known[word] = number
                if number >= 0:
                    document.append(number)
            documents.append(document)
        bm25 = bm25s.BM25(method="lucene", k1=0.9, b=0.4)
        bm25.index((documents, numbers), show_progress=False)
        return cls(bm25)

    def save(self, folder: Path) -> None:
        self.bm25.save(folder, show_progress=False)

    @classmethod
    def load(cls, folder: Path) -> Index:
        bm25s, _ = _packages()
        return cls(bm25s.BM25.load(folder, mmap=True, show_progress=False))

    def search(self, query: str, number: int) -> list[int]:
        """Numbers of the best products, at most ``number``; of equal scores the lower number first."""
        _, stem = _packages()
        words = [stem(word) for word in _WORD.findall(query[:LONGEST_QUERY].lower()) if word not in _STOP]
        return [product for product, _ in self._postings.best(words, number)]


def _packages() -> Any:
    """(bm25s, the function that stems a word). PyStemmer's stemmers are not thread-safe: each call of this has one."""
    try:
        import bm25s
        import Stemmer
    except ImportError as error:
        raise UserError(
            f"data.environment: WebShop needs the package {error.name}; pip install 'sdar_pl[webshop]'"
        ) from error
    return bm25s, Stemmer.Stemmer("porter").stemWord
