"""Confidence intervals (95 %) of a success rate, of a paired difference, and of a mean over seeds and tasks.

A success rate of one evaluation has a Wilson score interval. Two policies on the same panel of tasks are compared by
``paired_difference``: the difficulty of a task cancels within its pair, so that only the differences are resampled.
Several training runs on one panel are averaged by ``hierarchical_bootstrap``. numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: 97.5 % quantile of the standard normal distribution: half the width of a 95 % interval in standard errors
Z95 = 1.959963984540054


class Interval(NamedTuple):
    """An estimate with its 95 % confidence interval, all in the unit of the data.

    Example:
        ``wilson(8, 10) == Interval(mean=0.8, low=0.490, high=0.943)`` (rounded)
    """

    mean: float
    low: float
    high: float


def paired_difference(
    before: Sequence[float], after: Sequence[float], *, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Mean of ``after − before`` with its 95 % percentile bootstrap interval (Efron 1979) over the pairs.

    Args:
        before: one result per task; a success is 1, a failure 0.
        after: the results on the same tasks in the same order.
        resamples: number of panels drawn with replacement.
        seed: seed of the draws; equal arguments return equal intervals.

    Raises ``ValueError`` for empty lists and for lists of different lengths.
    """
    if len(before) != len(after) or len(before) == 0:
        raise ValueError(
            f"paired_difference: {len(before)} and {len(after)} results cannot be paired; give one each per task"
        )
    differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    # The counts of the distinct differences in a resampled panel follow a multinomial distribution. Drawing the counts
    # is the same bootstrap as drawing the tasks, without an array [resamples, tasks].
    values, counts = np.unique(differences, return_counts=True)
    number = len(differences)
    drawn = np.random.default_rng(seed).multinomial(number, counts / number, size=resamples)  # [resamples, values]
    low, high = np.percentile(drawn @ values / number, [2.5, 97.5])
    return Interval(float(differences.mean()), float(low), float(high))


def hierarchical_bootstrap(results: ArrayLike, *, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Mean of ``results`` with its 95 % percentile bootstrap interval over seeds *and* tasks.

    All runs are evaluated on the same panel of tasks, so seeds and tasks are crossed factors. Each resample draws runs
    with replacement, and one panel with replacement for all of these runs (pigeonhole bootstrap; Owen 2007, arXiv
    0712.1111). Drawing a separate panel for each run would average out the variance of task difficulty. For a paired
    comparison of two methods pass the difference of their results.

    Args:
        results: [seeds, tasks], one row per training run; a success is 1, a failure 0.
        resamples: number of draws of runs and panel.
        seed: seed of the draws; equal arguments return equal intervals.

    With one seed the interval holds the choice of the tasks alone.

    Raises ``ValueError`` for results that are not a matrix and for an empty matrix.
    """
    matrix = np.asarray(results, dtype=np.float64)
    means = resampled_means(matrix, resamples, seed)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(matrix.mean()), float(low), float(high))


def resampled_means(matrix: NDArray[np.float64], resamples: int = 10_000, seed: int = 0) -> NDArray[np.float64]:
    """The means [resamples] of ``hierarchical_bootstrap``'s draws of a ``matrix`` [seeds, tasks].

    Raises ``ValueError`` as ``hierarchical_bootstrap`` does.
    """
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"hierarchical_bootstrap: shape {matrix.shape}; must be [seeds, tasks], both ≥ 1")
    seeds, tasks = matrix.shape
    stream = np.random.default_rng(seed)
    # Counts of each run and of each task in a resample.
    runs = stream.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)  # [resamples, seeds]
    panels = stream.multinomial(tasks, np.full(tasks, 1 / tasks), size=resamples)  # [resamples, tasks]
    means: NDArray[np.float64] = ((runs @ matrix) * panels).sum(axis=1) / matrix.size
    return means


def wilson(successes: float, n: int) -> Interval:
    """Success rate with its 95 % Wilson score interval (Wilson 1927); (0, 0, 1) for ``n`` = 0.

    Args:
        successes: number of successes, between 0 and ``n``.
        n: number of episodes.

    Raises ``ValueError`` for ``successes`` outside 0…``n``.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"wilson: {successes:g} successes of {n} tries; must lie between 0 and {n}")
    if n == 0:
        return Interval(0.0, 0.0, 1.0)
    rate, z2 = successes / n, Z95 * Z95
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    return Interval(rate, max(0.0, centre - half), min(1.0, centre + half))
