"""p-values and Holm's correction: closed forms, properties, and the share of false findings in simulations."""

from __future__ import annotations

import numpy as np
import pytest

from sdar_pl.reports.significance import bootstrap_p, holm
from sdar_pl.reports.statistics import hierarchical_bootstrap


def test_p_is_twice_the_far_tail() -> None:
    """Four of ten tasks are gained and none lost: a resample gains Binomial(10, 0.4) tasks, P(X ≤ 0) = 0.6^10."""
    gains = np.array([[1.0] * 4 + [0.0] * 6])
    assert bootstrap_p(gains) == pytest.approx(2 * 0.6**10, abs=0.004)
    assert bootstrap_p(-gains) == bootstrap_p(gains)
    assert bootstrap_p(np.zeros((3, 5))) == 1.0
    assert bootstrap_p(np.ones((3, 5))) == pytest.approx(2 / 10_001)
    with pytest.raises(ValueError, match=r"must be \[seeds, tasks\]"):
        bootstrap_p([])


def test_p_is_below_one_in_twenty_where_the_interval_excludes_0() -> None:
    stream = np.random.default_rng(0)
    decided = set()
    for shift in np.linspace(0, 0.6, 30):
        matrix = shift + stream.normal(size=(4, 12))
        interval, p = hierarchical_bootstrap(matrix), bootstrap_p(matrix)
        if abs(p - 0.05) > 0.003:
            assert (p < 0.05) == (interval.low > 0 or interval.high < 0)
            decided.add(p < 0.05)
    assert decided == {True, False}


def test_holm_has_the_published_form() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
    assert holm([0.6, 0.9]) == [1.0, 1.0]


def test_holm_keeps_the_order_and_lowers_nothing() -> None:
    stream = np.random.default_rng(1)
    for number in range(1, 12):
        raw = (stream.random(number) ** 3).tolist()
        adjusted = holm(raw)
        assert all(p <= a <= min(1.0, number * p) + 1e-15 or a >= p for p, a in zip(raw, adjusted, strict=True))
        assert all(a >= p for p, a in zip(raw, adjusted, strict=True))
        assert np.all(np.diff(np.array(adjusted)[np.argsort(raw)]) >= 0)
        assert min(adjusted) == pytest.approx(min(1.0, number * min(raw)))
        assert holm(raw[::-1]) == adjusted[::-1]


def family(stream: np.random.Generator, methods: int = 4, seeds: int = 5, tasks: int = 32) -> list[np.ndarray]:
    """Differences [seeds, tasks] of methods to a baseline where none is better: tasks differ much, seeds a little."""
    difficulty = stream.normal(0.5, 2, tasks)

    def successes() -> np.ndarray:
        logits = difficulty + stream.normal(0, 0.3, (seeds, 1)) + stream.normal(0, 0.5, (seeds, tasks))
        return (stream.random((seeds, tasks)) < 1 / (1 + np.exp(-logits))).astype(float)

    baseline = successes()
    return [successes() - baseline for _ in range(methods)]


def test_false_findings_are_at_most_the_level() -> None:
    """Four methods that equal the baseline: the share of trials in which any has p ≤ 0.2, with and without Holm."""
    stream = np.random.default_rng(2)
    level, raw, corrected = 0.2, 0, 0
    trials = 200
    for _ in range(trials):
        p_values = [bootstrap_p(differences, resamples=400) for differences in family(stream)]
        raw += min(p_values) <= level
        corrected += min(holm(p_values)) <= level
    assert corrected / trials <= level
    assert raw / trials > level


def test_holm_finds_more_than_bonferroni() -> None:
    """One true effect beside null ones raises the chance for the next: 0.012 · 3 is rejected once 0.001 is."""
    adjusted = holm([0.001, 0.016, 0.5, 0.6])
    assert adjusted[1] == pytest.approx(0.048)
