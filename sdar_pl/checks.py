"""Refusing senseless values, with one line that names the argument, what is wrong and what to do."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sdar_pl.errors import UserError


def within(name: str, value: float, low: float = 0.0, high: float = math.inf) -> float:
    """``value`` if low ≤ value ≤ high; raises UserError otherwise (also for NaN)."""
    if not low <= value <= high:
        wanted = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise UserError(f"{name}: {value:g} makes no sense here; give a number {wanted}")
    return value


def one_of(name: str, value: str, known: Sequence[str]) -> None:
    """Raises UserError if ``value`` is not among the ``known`` ones."""
    if value not in known:
        raise UserError(f"{name}: {value!r} is unknown; use {', '.join(known[:-1])} or {known[-1]}")
