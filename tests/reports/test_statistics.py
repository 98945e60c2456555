"""Intervals: the bootstraps and Wilson's, against closed forms and a bootstrap written out."""

from __future__ import annotations

import numpy as np
import pytest

from sdar_pl.reports.statistics import Interval, hierarchical_bootstrap, paired_difference, wilson


def test_bootstrap_of_what_does_not_vary() -> None:
    assert hierarchical_bootstrap(np.full((3, 5), 0.5)) == Interval(0.5, 0.5, 0.5)
    assert hierarchical_bootstrap([[1.0]]) == Interval(1.0, 1.0, 1.0)


def test_bootstrap_has_the_spread_of_its_parts() -> None:
    """Standard errors: of seeds alone, of tasks alone, and of both in an additive matrix (independent: they add)."""
    stream = np.random.default_rng(0)
    seeds, tasks = stream.normal(size=40), 2 * stream.normal(size=60)

    def width(matrix: np.ndarray) -> float:
        result = hierarchical_bootstrap(matrix)
        assert result.low < result.mean < result.high
        assert result.mean == pytest.approx(matrix.mean())
        return result.high - result.low

    of_seeds, of_tasks = seeds.std() / len(seeds) ** 0.5, tasks.std() / len(tasks) ** 0.5
    factor = 2 * 1.96
    assert width(np.tile(seeds[:, None], (1, 60))) == pytest.approx(factor * of_seeds, rel=0.05)
    assert width(np.tile(tasks, (40, 1))) == pytest.approx(factor * of_tasks, rel=0.05)
    both = width(seeds[:, None] + tasks)
    assert both == pytest.approx(factor * (of_seeds**2 + of_tasks**2) ** 0.5, rel=0.05)


def test_bootstrap_is_reproducible_and_refuses_nonsense() -> None:
    matrix = np.random.default_rng(1).integers(0, 2, (5, 20))
    assert hierarchical_bootstrap(matrix) == hierarchical_bootstrap(matrix)
    for bad in ([], [1.0, 0.0], np.zeros((0, 3)), np.zeros((2, 0))):
        with pytest.raises(ValueError, match="no matrix"):
            hierarchical_bootstrap(bad)


def test_wilson_known_values() -> None:
    interval = wilson(8, 10)  # Wilson (1927); statsmodels: proportion_confint(8, 10, method="wilson")
    assert interval == pytest.approx((0.8, 0.4901625, 0.9433178), abs=1e-6)
    assert wilson(0, 20).low == 0
    assert wilson(20, 20).high == 1
    assert wilson(0, 0) == (0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="3 successes of 2"):
        wilson(3, 2)


def test_paired_difference_is_the_bootstrap_over_pairs() -> None:
    rng = np.random.default_rng(1)
    before, after = rng.integers(0, 2, 64), rng.integers(0, 2, 64)
    difference = paired_difference(before.tolist(), after.tolist())
    assert difference == paired_difference(before.tolist(), after.tolist())
    assert difference.mean == pytest.approx((after - before).mean())
    picked = rng.integers(0, 64, (20_000, 64))
    plain = np.percentile((after - before)[picked].mean(axis=1), [2.5, 97.5])
    assert difference[1:] == pytest.approx(plain, abs=1 / 64)


def test_a_difference_that_is_the_same_on_every_task_is_certain() -> None:
    assert paired_difference([0.0, 1.0, 5.0], [0.5, 1.5, 5.5]) == pytest.approx((0.5, 0.5, 0.5))


@pytest.mark.parametrize("lists", [([1.0], []), ([], [])])
def test_lists_that_cannot_be_paired_are_refused(lists: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference(*lists)
