"""Postings: the best documents without summing every list are the best documents of the sums."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest

from sdar_pl.retrieval.postings import Postings


def index_of(lists: dict[str, dict[int, float]]) -> SimpleNamespace:
    """bm25s's layout for word → {document: score}."""
    rows = [sorted(postings) for postings in lists.values()]
    data = [lists[word][row] for word, numbers in zip(lists, rows, strict=True) for row in numbers]
    scores = {
        "data": np.array(data, np.float32),
        "indices": np.array([row for numbers in rows for row in numbers], np.int32),
        "indptr": np.cumsum([0, *map(len, rows)]),
    }
    return SimpleNamespace(vocab_dict={word: number for number, word in enumerate(lists)}, scores=scores)


def by_sum(lists: dict[str, dict[int, float]], words: list[str], number: int) -> list[tuple[int, float]]:
    sums: dict[int, float] = {}
    for word in words:
        for document, score in lists.get(word, {}).items():
            sums[document] = sums.get(document, 0.0) + score
    return sorted(sums.items(), key=lambda item: (-item[1], item[0]))[:number]


@pytest.mark.parametrize("seed", range(40))
def test_the_best_are_those_of_the_sums(seed: int) -> None:
    """Rare words with large scores, common ones with small ones, many equal sums, and words that come twice."""
    draw = random.Random(seed)
    lists = {}
    for word in range(12):
        share = draw.choice((0.01, 0.1, 0.5, 1.0))
        documents = [document for document in range(400) if draw.random() < share] or [7]
        largest = 1 + int(4 / share**0.5)
        lists[f"w{word}"] = {document: draw.randint(1, largest) / 4 for document in documents}
    postings = Postings(index_of(lists))
    for _ in range(20):
        words = draw.choices([*lists, "unknown"], k=draw.randint(0, 9))
        for number in (1, 3, 50, 500):
            assert postings.best(words, number) == by_sum(lists, words, number)


def test_a_common_word_is_not_summed() -> None:
    """A document without the rare word cannot reach the best ones: the common list is read for those alone."""
    common = dict.fromkeys(range(10000), 0.5)
    postings = Postings(index_of({"rare": {3: 5.0, 9_000: 4.0}, "common": common}))
    reads = []
    bincount = np.bincount
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "bincount", lambda *a, **k: reads.append(a) or bincount(*a, **k))
        assert postings.best(["common", "rare"], 2) == [(3, 5.5), (9_000, 4.5)]
        assert not reads
        assert len(postings.best(["common", "rare"], 3)) == 3
        assert reads
