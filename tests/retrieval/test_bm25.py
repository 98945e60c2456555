"""BM25: rankings, the index on disk, and corpora that are none."""

from __future__ import annotations

import json
import math
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sdar_pl.environments.search_qa.fiction import encyclopaedia
from sdar_pl.errors import UserError
from sdar_pl.retrieval.base import Passage
from sdar_pl.retrieval.bm25 import BM25
from sdar_pl.retrieval.words import words


def by_hand(passages: list[Passage], query: str) -> list[float]:
    """Scores of Lucene's BM25 (k1 1.5, b 0.75) by its formula."""
    documents = [words(f"{passage.title} {passage.text}") for passage in passages]
    mean = sum(map(len, documents)) / len(documents)
    scores = [0.0] * len(documents)
    for word in dict.fromkeys(words(query)):
        holding = sum(word in document for document in documents)
        idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
        for number, document in enumerate(documents):
            count = Counter(document)[word]
            scores[number] += idf * count / (count + 1.5 * (0.25 + 0.75 * len(document) / mean))
    return scores


def test_ranking_by_hand() -> None:
    passages = encyclopaedia().passages[:300]
    index = BM25.of(passages)
    for query in ("river streets", "Anton founded year 47", "eels", "The Silver Key novel", "town town town"):
        scores = by_hand(passages, query)
        found = index.retrieve([query], 7)[0]
        expected = sorted((score for score in scores if score), reverse=True)[:7]
        assert [passage.score for passage in found] == pytest.approx(expected, rel=1e-4)
        number_of = {passage.id: number for number, passage in enumerate(passages)}
        assert [scores[number_of[passage.id]] for passage in found] == pytest.approx(expected, rel=1e-4)


def test_nothing_found() -> None:
    index = BM25.of([Passage("1", "a title", "some words")])
    assert index.retrieve(["", "the", "unknown", "\x00 💥"], 3) == [[], [], [], []]


def corpus(folder: Path, lines: list[Any]) -> Path:
    path = folder / "corpus.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_index_on_disk(tmp_path: Path) -> None:
    """Both forms of a line; the index is built once, and again when the corpus has changed."""
    passages = encyclopaedia().passages[:200]
    rows = [{"id": p.id, "title": p.title, "text": p.text} for p in passages[:100]]
    rows += [{"id": p.id, "contents": p.contents} for p in passages[100:]]
    random.Random(0).shuffle(rows)
    path = corpus(tmp_path, [rows[0], "", *rows[1:]])
    ids = {str(row["id"]) for row in rows}
    index = BM25(str(path))
    in_memory = BM25.of([passage for passage in passages if passage.id in ids])
    for query in ("river", "Anton founded year 47", passages[3].title, passages[150].title):
        one, other = index.retrieve([query], 1)[0], in_memory.retrieve([query], 1)[0]
        assert [passage.score for passage in one] == pytest.approx([passage.score for passage in other])
    assert index.retrieve([passages[150].title], 1)[0][0].title == passages[150].title
    folder = tmp_path / "corpus.jsonl.bm25"
    built = (folder / "offsets.bin").stat().st_mtime_ns
    BM25(str(path))
    assert (folder / "offsets.bin").stat().st_mtime_ns == built
    with path.open("a", encoding="utf-8") as file:
        file.write('\n{"id": "new", "title": "New", "text": "zebra"}')
    os.utime(path, ns=(1, 1))
    assert BM25(str(path)).retrieve(["zebra"], 1)[0][0].id == "new"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["corpus.jsonl", folder.name, f"{folder.name}.lock"]


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ([{"id": 1, "text": "a"}, "{"], r"corpus.jsonl: line 2: not JSON"),
        (["[]"], r"line 1: no id"),
        ([{"text": "a"}], r"line 1: no id"),
        ([{"id": 1}], r"line 1: neither contents nor text"),
        (
            [{"id": 1, "text": "a"}, "", {"id": 2, "text": "b"}, {"id": "1", "text": "c"}],
            r"lines 1 and 4 have the same id",
        ),
        ([], r"is empty"),
        (["", " "], r"is empty"),
    ],
)
def test_bad_corpus(tmp_path: Path, lines: list[Any], error: str) -> None:
    with pytest.raises(UserError, match=error):
        BM25(str(corpus(tmp_path, lines)))
    assert not (tmp_path / "corpus.jsonl.bm25").exists()


def test_bad_places(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--corpus .*none.jsonl: no such file"):
        BM25(str(tmp_path / "none.jsonl"))
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match=r"--index .*mine: is no index"):
        BM25(str(corpus(tmp_path, [{"id": 1, "text": "a"}])), str(tmp_path / "mine"))
    with pytest.raises(UserError, match="no passages"):
        BM25.of([])
