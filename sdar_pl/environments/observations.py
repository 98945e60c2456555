"""Observations where they arrive: made plain Python, and checked, before anything is computed of them.

The rollout and ``check-env`` share these functions. A session whose observation is not valid has failed: it is counted,
retried, and left out like one that raises. Left out: whether the words make sense to a policy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from sdar_pl.types import Observation

#: largest absolute reward: the sum and the square of an episode's rewards stay finite in float32
LARGEST_REWARD = 1e15


class ObservationError(Exception):
    """A session's answer is no valid ``Observation``. The message names the field, its value, and what it must be."""


def received(answer: object, *, first: bool = False) -> Observation:
    """The plain ``Observation`` that a session has returned; ``first`` marks the answer to ``reset``.

    Raises ``ObservationError`` for the first problem found.
    """
    if not isinstance(answer, Observation):
        raise ObservationError(f"the session returned {type(answer).__name__} instead of an Observation")
    seen = plain(answer)
    for problem in problems(seen):
        raise ObservationError(problem)
    if first and (seen.done or seen.reward):
        raise ObservationError("reset() returned done or a reward; only step() may")
    return seen


def plain(answer: Observation) -> Observation:
    """The same observation in Python's own types, as far as no value changes.

    numpy's scalars become Python's, a list of commands a tuple, an int reward a float. Everything else stays, for
    ``problems`` to name.
    """
    commands = answer.admissible
    return Observation(
        text=_scalar(answer.text),
        admissible=tuple(map(_scalar, commands)) if isinstance(commands, (list, tuple)) else commands,
        reward=_number(_scalar(answer.reward)),
        done=_scalar(answer.done),
        success=_scalar(answer.success),
        score=_number(_scalar(answer.score)),
    )


def problems(seen: Observation) -> Iterator[str]:
    """What is wrong with the fields of a ``plain`` observation, one line each."""
    if fault := text_problem(seen.text):
        yield f"Observation.text {fault}"
    if not isinstance(seen.admissible, tuple):
        yield f"Observation.admissible is {brief(seen.admissible)}; must be a tuple of texts"
    elif fault := next(filter(None, map(text_problem, seen.admissible)), ""):
        yield f"Observation.admissible: a command {fault}"
    if not isinstance(seen.reward, float) or not math.isfinite(seen.reward):
        yield f"Observation.reward is {brief(seen.reward)}; must be a finite number"
    elif abs(seen.reward) > LARGEST_REWARD:
        yield f"Observation.reward is {seen.reward:g}; must be between -{LARGEST_REWARD:g} and {LARGEST_REWARD:g}"
    for name in ("done", "success"):
        if not isinstance(getattr(seen, name), bool):
            yield f"Observation.{name} is {brief(getattr(seen, name))}; must be a bool"
    if seen.score is not None and not (isinstance(seen.score, float) and 0 <= seen.score <= 1):
        yield f"Observation.score is {brief(seen.score)}; must be a number from 0 to 1, or None"
    if seen.success is True and seen.done is False:
        yield "Observation.success without Observation.done"


def text_problem(value: object) -> str:
    """What keeps ``value`` from being a text that can be encoded; empty if nothing does."""
    if not isinstance(value, str):
        return f"is {brief(value)}; must be a text"
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return f"has a lone surrogate, {value[error.start]!r}, at {error.start}; must be Unicode that UTF-8 can encode"
    return ""


def brief(value: object) -> str:
    """At most 60 characters of a value's ``repr``, on one line."""
    try:
        text = " ".join(repr(value).split())
    except Exception:
        text = f"an object of {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:56]} …{text[-1]}"


def _scalar(value: Any) -> Any:
    """A numpy scalar or a subclass of str as Python's own type; any other value unchanged."""
    if isinstance(value, np.generic):
        return value.item()
    return str.__str__(value) if isinstance(value, str) else value


def _number(value: Any) -> Any:
    """An int as a float, if a float can hold it; a bool is no number."""
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return value
    return cast("Any", value)
