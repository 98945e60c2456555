"""Intervals: Wilson's against published values, the bootstraps against closed forms and exact distributions."""

from __future__ import annotations

import numpy as np
import pytest

from sdar_pl.reports.statistics import Interval, hierarchical_bootstrap, paired_difference, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe (1998, Statistics in Medicine 17: 857–872), table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (8, 10, 0.4902, 0.9433),  # statsmodels: proportion_confint(8, 10, method="wilson")
        (10, 10, 0.7225, 1.0),  # n / (n + z²)
    ],
)
def test_wilson_has_the_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((successes / n, low, high), abs=5e-5)


def test_wilson_of_nothing_and_of_nonsense() -> None:
    assert wilson(0, 0) == Interval(0.0, 0.0, 1.0)
    for successes, n in ((3, 2), (-1, 2), (1, 0)):
        with pytest.raises(ValueError, match=f"{successes} successes of {n} tries"):
            wilson(successes, n)


BEFORE = [0.0] * 8 + [1.0] * 2  # 2 of 10 tasks solved, afterwards 6
AFTER = [1.0] * 4 + [0.0] * 4 + [1.0] * 2


def test_paired_difference_is_after_minus_before_with_the_exact_quantiles() -> None:
    """Four tasks are gained and none lost: a resampled panel gains Binomial(10, 0.4) tasks."""
    # P(X ≤ 0) = 0.006, P(X ≤ 1) = 0.046; P(X ≤ 6) = 0.945, P(X ≤ 7) = 0.988
    assert paired_difference(BEFORE, AFTER) == pytest.approx((0.4, 0.1, 0.7))
    assert paired_difference(AFTER, BEFORE) == pytest.approx((-0.4, -0.7, -0.1))
    # Four times the tasks: Binomial(40, 0.4), P(X ≤ 9) = 0.016, P(X ≤ 10) = 0.035; P(X ≤ 21) = 0.961, P(X ≤ 22) = 0.981
    assert paired_difference(BEFORE * 4, AFTER * 4) == pytest.approx((0.4, 0.25, 0.55))


def test_paired_difference_depends_on_the_pairing() -> None:
    """The same two success rates with other pairs, six tasks gained and two lost, are less certain."""
    other = paired_difference(BEFORE, sorted(AFTER, reverse=True))
    assert other.mean == pytest.approx(0.4)
    assert other.low == pytest.approx(-0.1)  # exact distribution: P(X ≤ −0.2) = 0.020, P(X ≤ −0.1) = 0.044
    assert other.high > 0.75
    # A difference that all tasks share is certain, however different the tasks are.
    assert paired_difference([0.0, 1.0, 5.0], [0.5, 1.5, 5.5]) == pytest.approx((0.5, 0.5, 0.5))


def test_paired_difference_is_the_bootstrap_over_pairs() -> None:
    rng = np.random.default_rng(1)
    before, after = rng.integers(0, 2, 64), rng.integers(0, 2, 64)
    difference = paired_difference(before.tolist(), after.tolist())
    assert difference.mean == pytest.approx((after - before).mean())
    picked = rng.integers(0, 64, (20_000, 64))
    plain = np.percentile((after - before)[picked].mean(axis=1), [2.5, 97.5])
    assert difference[1:] == pytest.approx(plain, abs=1 / 64)


def test_paired_difference_is_reproducible_and_refuses_what_has_no_pairs() -> None:
    stream = np.random.default_rng(1)
    before, after = stream.normal(size=(2, 30)).tolist()
    interval = paired_difference(before, after)
    assert interval == paired_difference(before, after)
    assert interval != paired_difference(before, after, seed=1)
    assert interval.low < interval.mean < interval.high
    for lists in ([1.0], []), ([], []), ([1.0], [1.0, 0.0]):
        with pytest.raises(ValueError, match=f"{len(lists[0])} and {len(lists[1])} results cannot be paired"):
            paired_difference(*lists)


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
    matrix = np.random.default_rng(1).normal(size=(5, 20))
    assert hierarchical_bootstrap(matrix) == hierarchical_bootstrap(matrix)
    assert hierarchical_bootstrap(matrix) != hierarchical_bootstrap(matrix, seed=1)
    for bad in ([], [1.0, 0.0], np.zeros((0, 3)), np.zeros((2, 0))):
        with pytest.raises(ValueError, match=r"must be \[seeds, tasks\]"):
            hierarchical_bootstrap(bad)
