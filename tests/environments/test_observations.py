"""Observations where they arrive: what passes becomes plain Python, what does not is named."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdar_pl.environments.observations import LARGEST_REWARD, ObservationError, brief, received
from sdar_pl.types import Observation


class Mine(Observation):
    """An environment's own class, with a field that no checkpoint restores."""

    score = 3


class Words(str):
    """An environment's own texts."""


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    "answer",
    [
        Observation("x", ("go", "look"), 1.5, True, True),
        Observation(np.str_("x"), (np.str_("go"), "look"), np.float32(1.5), np.bool_(True), np.bool_(True)),  # type: ignore[arg-type]
        Observation("x", ["go", "look"], np.float64(1.5), True, True),  # type: ignore[arg-type]
        Mine(Words("x"), (Words("go"), "look"), 1.5, True, True),
    ],
    ids=["plain", "numpy", "list", "subclasses"],
)
def test_what_passes_is_plain(answer: Observation) -> None:
    seen = received(answer)
    assert seen == Observation("x", ("go", "look"), 1.5, True, True)
    types = [type(seen), *(type(value) for value in vars(seen).values()), *map(type, seen.admissible)]
    assert types == [Observation, str, tuple, float, bool, bool, type(None), str, str]
    assert json.loads(json.dumps(asdict(seen)))["reward"] == 1.5


def test_an_integer_is_a_reward() -> None:
    reward = received(Observation("x", reward=np.int64(2))).reward  # type: ignore[arg-type]
    assert (reward, type(reward)) == (2.0, float)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"text": None}, "Observation.text is None; must be a text"),
        ({"text": b"x"}, "Observation.text is b'x'; must be a text"),
        ({"text": "ab\ud800"}, r"Observation.text has a lone surrogate, '\ud800', at 2; must be Unicode"),
        ({"text": Unprintable()}, "Observation.text is an object of Unprintable; must be a text"),
        ({"admissible": "go"}, "Observation.admissible is 'go'; must be a tuple of texts"),
        ({"admissible": {"go"}}, "Observation.admissible is {'go'}; must be a tuple of texts"),
        ({"admissible": ("go", 3)}, "Observation.admissible: a command is 3; must be a text"),
        ({"admissible": ("go", "\udfff")}, "Observation.admissible: a command has a lone surrogate"),
        ({"reward": math.nan}, "Observation.reward is nan; must be a finite number"),
        ({"reward": -math.inf}, "Observation.reward is -inf; must be a finite number"),
        ({"reward": np.float32("nan")}, "Observation.reward is nan; must be a finite number"),
        ({"reward": 10**400}, "Observation.reward is 1000000000"),
        ({"reward": 1e300}, "Observation.reward is 1e+300; must be between -1e+15 and 1e+15"),
        ({"reward": "1"}, "Observation.reward is '1'; must be a finite number"),
        ({"reward": True}, "Observation.reward is True; must be a finite number"),
        ({"reward": None}, "Observation.reward is None; must be a finite number"),
        ({"reward": 1j}, "Observation.reward is 1j; must be a finite number"),
        ({"reward": np.ones(2)}, "Observation.reward is array([1., 1.]); must be a finite number"),
        ({"done": 1}, "Observation.done is 1; must be a bool"),
        ({"done": "no"}, "Observation.done is 'no'; must be a bool"),
        ({"success": None}, "Observation.success is None; must be a bool"),
        ({"success": True}, "Observation.success without Observation.done"),
    ],
    ids=brief,
)
def test_what_does_not_pass_is_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ObservationError) as caught:
        received(Observation(**{"text": "x", **fields}))
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("answer", [None, "x", ("x", 0.0, False, {}), Observation])
def test_what_is_no_observation(answer: object) -> None:
    with pytest.raises(ObservationError, match=f"the session returned {type(answer).__name__} instead of an Obs"):
        received(answer)


@pytest.mark.parametrize("fields", [{"done": True}, {"reward": 0.5}])
def test_the_first_one_ends_and_rewards_nothing(fields: dict[str, Any]) -> None:
    """Such a reward would be in no turn, and hence in no figure."""
    assert received(Observation("x", **fields))
    with pytest.raises(ObservationError, match=r"reset\(\) returned done or a reward"):
        received(Observation("x", **fields), first=True)


def test_long_values_are_shown_in_brief() -> None:
    assert len(brief("x" * 10_000_000)) <= 60


VALUES = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.complex_numbers()),
    *(st.characters(categories=["Cs"]), st.lists(st.text(st.characters())), st.floats(width=32).map(np.float32)),
    st.just(np.bool_(True)),
)


@given(st.tuples(VALUES, VALUES, VALUES, VALUES, VALUES))
def test_whatever_arrives_is_plain_or_refused(values: Any) -> None:
    try:
        seen = received(Observation(*values))
    except ObservationError:
        return
    json.dumps(asdict(seen), allow_nan=False).encode()
    assert abs(seen.reward) <= LARGEST_REWARD
    assert [type(value) for value in vars(seen).values()] == [str, tuple, float, bool, bool]
