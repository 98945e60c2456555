"""Range checks on a user's values. Their errors name the key in full from the root of the YAML, the value, the range.

    self.beta = at_least("model.objective.beta", beta, 0)      # model.objective.beta: -1; must be ≥ 0

Every check returns its value. None (an option that is off) passes; NaN never does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from sdar_pl.errors import UserError

Number = TypeVar("Number", bound=float | None)
Choice = TypeVar("Choice", bound=str)


def at_least(key: str, value: Number, low: float) -> Number:
    """``value`` if it is ≥ ``low``. Raises UserError otherwise."""
    if value is None or value >= low:
        return value
    raise UserError(f"{key}: {value:.15g}; must be ≥ {low:.15g}")


def positive(key: str, value: Number) -> Number:
    """``value`` if it is > 0. Raises UserError otherwise."""
    if value is None or value > 0:
        return value
    raise UserError(f"{key}: {value:.15g}; must be > 0")


def between(key: str, value: Number, low: float, high: float, *, ends: str = "[]") -> Number:
    """``value`` if it is in the interval from ``low`` to ``high``. Raises UserError otherwise.

    A square bracket in ``ends`` includes that end, a round one excludes it: "(]" is > ``low`` and ≤ ``high``.
    """
    included = [end for end, bracket in ((low, ends[0]), (high, ends[1])) if bracket in "[]"]
    if value is None or low < value < high or value in included:
        return value
    signs = ("≥" if ends[0] == "[" else ">", "≤" if ends[1] == "]" else "<")
    raise UserError(f"{key}: {value:.15g}; must be {signs[0]} {low:.15g} and {signs[1]} {high:.15g}")


def one_of(key: str, value: Choice, choices: Sequence[str]) -> Choice:
    """``value`` if it is among the ``choices``. Raises UserError otherwise."""
    if value in choices:
        return value
    raise UserError(f"{key}: {value!r}; must be one of {', '.join(choices)}")


def expression(key: str, text: str, flags: int = 0) -> re.Pattern[str]:
    """``text`` as a compiled regular expression. Raises UserError for a text that is none."""
    try:
        return re.compile(text, flags)
    except re.error as error:
        raise UserError(f"{key}: {text!r} is no regular expression ({error}); mend it") from None
