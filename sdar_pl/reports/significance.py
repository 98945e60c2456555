"""p-values of differences between methods, and their correction for several comparisons with one baseline.

A p-value belongs to the interval of ``hierarchical_bootstrap``: it is below 0.05 where the 95 % interval excludes 0.
Where few seeds differ much from each other, the interval is too narrow and p too small. ``holm`` bounds the chance of
*any* false finding in a family of comparisons, whatever their dependence (here: one baseline and one panel).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from sdar_pl.reports.statistics import resampled_means


def bootstrap_p(differences: ArrayLike, *, resamples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of the hypothesis that the mean of paired ``differences`` [seeds, tasks] is 0.

    Twice the share of resampled means on the far side of 0, at most 1: the inversion of the percentile interval of
    ``hierarchical_bootstrap`` (Efron and Tibshirani 1993, section 15.4). Means of 0 count as far, and one resample is
    added, so that p is never 0.

    Raises ``ValueError`` as ``hierarchical_bootstrap`` does.
    """
    means = resampled_means(np.asarray(differences, dtype=np.float64), resamples, seed)
    far = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return min(1.0, 2 * (far + 1) / (resamples + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of one family, in the order of ``p_values`` (Holm 1979).

    The k-th smallest p of m, k from 0, becomes the largest of (m − j)·p_j for j ≤ k, at most 1. Rejecting every
    hypothesis whose adjusted p is ≤ α keeps the chance of any false rejection ≤ α.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
