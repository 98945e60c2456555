"""What the adapters of other people's environments share, without their packages."""

from __future__ import annotations

import random
import sys
from threading import Thread

import numpy as np
import pytest

from sdar_pl.environments.generated import seed_of
from sdar_pl.environments.global_random import OwnRandom
from sdar_pl.environments.gym_text import GymText, World
from sdar_pl.environments.reasoning_gym import ReasoningGym
from sdar_pl.environments.textarena import TextArena
from sdar_pl.errors import UserError


def draws(own: OwnRandom, into: list[float], count: int = 300) -> None:
    for _ in range(count):
        with own.active():
            into += [random.random(), float(np.random.random())]


def test_every_session_has_its_own_draws() -> None:
    random.seed(7)
    np.random.seed(7)
    outside = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    alone: list[list[float]] = [[], []]
    for number in (0, 1):
        draws(OwnRandom(number), alone[number])
    together: list[list[float]] = [[], [], []]
    threads = [Thread(target=draws, args=(OwnRandom(number), together[number])) for number in (0, 1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together[:2] == alone
    assert alone[0] != alone[1]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == outside  # type: ignore[union-attr]


def test_seeds_are_of_31_bits_and_stable() -> None:
    seeds = {seed_of("lake", "train", index, 0) for index in range(2000)}
    assert len(seeds) == 2000
    assert max(seeds) < 2**31
    assert seed_of("lake", "train", 3, 0) == seed_of("lake", "train", 3, 0) != seed_of("lake", "train", 3, 1)


@pytest.mark.parametrize(
    ("make", "module", "extra"),
    [(ReasoningGym, "reasoning_gym", "reasoning-gym"), (TextArena, "textarena", "textarena")],
)
def test_a_missing_package_is_named(make: type, module: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"needs the package '{module}'; pip install 'sdar_pl\[{extra}\]'"):
        make()


class Counter:
    """Count to three: Gymnasium's interface in ten lines. ``old`` returns the older four values."""

    def __init__(self, old: bool = False, hint: bool = False) -> None:
        self.old, self.hint, self.closed = old, hint, 0

    def reset(self, seed: int) -> tuple[str, dict[str, object]]:
        self.number = 0
        return f"count to three (seed {seed % 2})", {"admissible_commands": ["1", "2", "3"] if self.hint else None}

    def step(self, action: str) -> tuple[object, ...]:
        right = action == str(self.number + 1)
        self.number += right
        done = self.number == 3
        reward = np.float32(0.5 if done else 0.25 * right)
        ends = (done,) if self.old else (done, action == "stop")
        return "go on", reward, *ends, {}


@pytest.mark.parametrize("old", [False, True])
def test_a_world_of_gymnasium_s_interface(old: bool) -> None:
    world = GymText({"count": World(f"{__name__}.Counter", {"old": old, "hint": True})}, seed=3)
    task = world.tasks("train")[5]
    assert (task.kind, task.id) == ("count", "count/train/5")
    session = world.session(task)
    assert session.reset().admissible == ("1", "2", "3")
    seen = [session.step(action) for action in ("1", "1", "2", "3")]
    assert [one.reward for one in seen] == [0.25, 0.0, 0.25, 0.5]
    assert [one.done for one in seen] == [False, False, False, True]
    assert seen[-1].success
    assert session.step("1").reward == 0
    if not old:
        session = world.session(task)
        session.reset()
        ended = session.step("stop")
        assert (ended.done, ended.success) == (True, False)
    assert world.parse("so <action> 2 </action>") == ("2", True)
    assert world.parse("2") == ("2", False)


@pytest.mark.parametrize(
    ("worlds", "message"),
    [
        ({}, r"data.environment.worlds: \{\}; name a world"),
        ({"a": World("nowhere.make")}, r"worlds.a.make: 'nowhere.make' cannot be imported"),
        ({"a": World("make")}, r"worlds.a.make: 'make' cannot be imported"),
        ({"a": World("math.pi")}, r"worlds.a.make: 'math.pi' is no function and no class"),
    ],
)
def test_a_world_that_cannot_be_made(worlds: dict[str, World], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GymText(worlds)


def test_an_observation_that_is_no_text() -> None:
    class Numbers(Counter):
        def reset(self, seed: int) -> tuple[str, dict[str, object]]:
            return 7, {}  # type: ignore[return-value]

    world = GymText({"count": World(f"{__name__}.Counter")})
    world._make["count"] = Numbers
    with pytest.raises(UserError, match="an observation is int; wrap the environment"):
        world.session(world.tasks("train")[0]).reset()
