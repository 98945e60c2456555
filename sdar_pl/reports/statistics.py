"""How sure a success rate and a difference of two are. numpy only.

``paired_difference`` compares two policies on the same panel: tasks differ in difficulty far more than policies do, so
it is the differences within tasks that are resampled. ``hierarchical_bootstrap`` adds the seeds of several runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

#: half-width of a 95 % interval in standard errors of a normal distribution
Z95 = 1.959963984540054


class Interval(NamedTuple):
    """An estimate and its 95 % interval, in the unit of the data."""

    mean: float
    low: float
    high: float


def paired_difference(
    before: Sequence[float], after: Sequence[float], *, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Mean of ``after − before`` with a 95 % bootstrap interval (percentiles, Efron 1979) over the pairs.

    Args:
        before: one result for each task, success as 0 or 1.
        after: the same tasks in the same order.
        resamples: how many panels are drawn with replacement.
        seed: of the draw; the same input gives the same interval.

    Raises ``ValueError`` for lists of different or no length.
    """
    if len(before) != len(after) or len(before) == 0:
        raise ValueError(f"paired_difference: {len(before)} and {len(after)} results cannot be paired")
    differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    # How often each distinct difference occurs in a resampled panel is multinomial: the very same bootstrap without an
    # array of resamples × tasks.
    values, counts = np.unique(differences, return_counts=True)
    number = len(differences)
    drawn = np.random.default_rng(seed).multinomial(number, counts / number, size=resamples)  # [resamples, values]
    low, high = np.percentile(drawn @ values / number, [2.5, 97.5])
    return Interval(float(differences.mean()), float(low), float(high))


def hierarchical_bootstrap(results: ArrayLike, *, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Mean of ``results`` with a 95 % bootstrap interval (percentiles) over seeds *and* tasks.

    All seeds are evaluated on the same panel, so the two levels are crossed: each resample draws runs with replacement
    and one panel with replacement for all of them (the pigeonhole bootstrap; Owen, 2007, arXiv 0712.1111). Drawing
    another panel for each run would average the difficulty of tasks away. For a paired comparison of two methods pass
    their difference, run by run and task by task.

    Args:
        results: [seeds, tasks].
        resamples: how often both are drawn.
        seed: of the draw; the same input gives the same interval.

    Raises ``ValueError`` for anything but a filled matrix.
    """
    matrix = np.asarray(results, dtype=np.float64)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"hierarchical_bootstrap: {matrix.shape} is no matrix of seeds and tasks")
    seeds, tasks = matrix.shape
    stream = np.random.default_rng(seed)
    # How often each run and each task occurs in a resample.
    runs = stream.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)  # [resamples, seeds]
    panels = stream.multinomial(tasks, np.full(tasks, 1 / tasks), size=resamples)  # [resamples, tasks]
    means = ((runs @ matrix) * panels).sum(axis=1) / matrix.size
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(matrix.mean()), float(low), float(high))


def wilson(successes: float, n: int) -> Interval:
    """Success rate of ``n`` tries with its 95 % Wilson score interval; (0, 0, 1) when nothing was tried.

    Raises ``ValueError`` when ``successes`` does not lie between 0 and ``n``.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"wilson: {successes:g} successes of {n} tries")
    if n == 0:
        return Interval(0.0, 0.0, 1.0)
    rate, z2 = successes / n, Z95 * Z95
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    return Interval(rate, max(0.0, centre - half), min(1.0, centre + half))
