"""Range checks: what passes, what is refused, and how the one line reads."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from sdar_pl.checks import at_least, between, one_of, positive
from sdar_pl.errors import UserError


def test_values_in_range_pass_as_they_are() -> None:
    assert at_least("a.b", 1, 1) == 1
    assert at_least("a.b", math.inf, 1) == math.inf
    assert positive("a.b", 0.1) == 0.1
    assert between("a.b", 0, 0, 1) == 0
    assert between("a.b", 1, 0, 1) == 1
    assert between("a.b", 1, 0, 1, ends="(]") == 1
    assert between("a.b", 0, 0, 1, ends="[)") == 0
    assert between("a.b", 0.5, 0, 1, ends="()") == 0.5
    assert one_of("a.b", "y", ("x", "y")) == "y"
    assert at_least("a.b", None, 1) is positive("a.b", None) is between("a.b", None, 0, 1) is None


@pytest.mark.parametrize(
    ("check", "line"),
    [
        (lambda: at_least("model.objective.beta", -1, 0), "model.objective.beta: -1; must be ≥ 0"),
        (lambda: at_least("a.b", -1.0, 0.5), "a.b: -1; must be ≥ 0.5"),
        (lambda: at_least("a.b", math.nan, 0), "a.b: nan; must be ≥ 0"),
        (lambda: positive("a.b", 0), "a.b: 0; must be > 0"),
        (lambda: positive("a.b", math.nan), "a.b: nan; must be > 0"),
        (lambda: between("a.b", 1.5, 0, 1), "a.b: 1.5; must be ≥ 0 and ≤ 1"),
        (lambda: between("a.b", -1234567, 0, 1), "a.b: -1234567; must be ≥ 0 and ≤ 1"),
        (lambda: between("a.b", math.nan, 0, 1), "a.b: nan; must be ≥ 0 and ≤ 1"),
        (lambda: between("a.b", 0, 0, 1, ends="(]"), "a.b: 0; must be > 0 and ≤ 1"),
        (lambda: between("a.b", 1, 0, 1, ends="[)"), "a.b: 1; must be ≥ 0 and < 1"),
        (lambda: between("a.b", 1, 0, 1, ends="()"), "a.b: 1; must be > 0 and < 1"),
        (lambda: one_of("a.b", "z", ("x", "y")), "a.b: 'z'; must be one of x, y"),
    ],
)
def test_others_are_refused_in_one_line(check: Callable[[], object], line: str) -> None:
    with pytest.raises(UserError) as error:
        check()
    assert str(error.value) == line
