"""Intervals: the bootstraps and Wilson's, against closed forms and a bootstrap written out."""

from __future__ import annotations

import numpy as np
import pytest

from sdar_pl.reports.statistics import Interval, hierarchical_bootstrap


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
