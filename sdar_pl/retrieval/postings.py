"""Postings: for each word the documents that hold it and what it adds to their scores; the best documents by them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.integer[Any]]
Scores = npt.NDArray[np.float32]
Sums = npt.NDArray[np.float64]

#: Sums are rounded to 32 bits before they are compared, as Lucene's: documents that differ by less are equal.
_ROUNDING = 1 - 2.0**-22


class Postings:
    """An index of bm25s (Lù 2024), whose scores of a word in a document were computed when it was built.

    Args:
        index: the index, in memory or memory-mapped.
    """

    def __init__(self, index: Any) -> None:
        self.vocabulary: dict[str, int] = index.vocab_dict
        # Plain arrays over the same memory: every slice of a numpy.memmap costs some microseconds.
        self._scores, self._rows, self._begins = (
            np.asarray(index.scores[name]) for name in ("data", "indices", "indptr")
        )

    def best(self, words: Sequence[str], number: int) -> list[tuple[int, float]]:
        """(document, score) of the ``number`` best documents that hold one of the words; of equal scores the lower
        document first. A word that is named twice counts twice.

        A rare word weighs more than a common one. So the rare ones come first, and a common word's long list is not
        summed once ``number`` documents have more than all words that are left can give (MaxScore; Turtle and Flood
        1995): that list is only searched for the documents that can still be among the best.
        """
        lists = [
            (self._rows[span], self._scores[span], times)
            for word, times in Counter(words).items()
            if (span := self._span(word)) is not None
        ]
        lists.sort(key=lambda one: len(one[0]))
        left = np.cumsum([0.0, *(times * float(scores.max()) for _, scores, times in reversed(lists))])[::-1]
        rows: Numbers = np.zeros(0, np.int32)
        sums: Sums = np.zeros(0)
        done = 0
        while done < len(lists):
            done = min(2 * done or 1, len(lists))  # doubled, so that a long query is summed twice at most
            rows, sums = _summed(lists[:done])
            least = np.partition(sums, -number)[-number] * _ROUNDING if len(rows) >= number else 0.0
            if least > left[done]:
                kept = sums + left[done] >= least
                rows, sums = rows[kept], sums[kept]
                for postings, scores, times in lists[done:]:
                    at = np.minimum(np.searchsorted(postings, rows), len(postings) - 1)
                    sums += times * np.where(postings[at] == rows, scores[at], 0.0)
                break
        rounded = sums.astype(np.float32)
        order = np.lexsort((rows, -rounded))[:number]
        return [(int(rows[at]), float(rounded[at])) for at in order]

    def _span(self, word: str) -> slice | None:
        """Where the postings of a word are: documents in ascending order, and scores. None: no document holds it."""
        id = self.vocabulary.get(word)
        if id is None or self._begins[id] == self._begins[id + 1]:
            return None
        return slice(int(self._begins[id]), int(self._begins[id + 1]))


def _summed(lists: Sequence[tuple[Numbers, Scores, int]]) -> tuple[Numbers, Sums]:
    """The documents that hold one of the words, and their sums."""
    if len(lists) == 1:
        rows, scores, times = lists[0]
        return rows, times * scores.astype(np.float64)
    held = np.concatenate([rows for rows, _, _ in lists])
    added = np.concatenate([scores if times == 1 else times * scores for _, scores, times in lists], dtype=np.float64)
    sums: Sums = np.bincount(held, added).astype(np.float64, copy=False)
    found = np.flatnonzero(sums > 0)
    return found, sums[found]
