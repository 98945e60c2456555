"""GymText: environments of Gymnasium's interface whose observations and actions are texts.

``reset(seed=…)`` returns (text, info) and ``step(text)`` returns (text, reward, terminated, truncated, info), or the
older (text, reward, done, info). ``info`` may hold ``success`` and ``admissible_commands``. One's own wrapper makes
such an environment of any other; frozen_lake_text.py is one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sdar_pl.checks import positive
from sdar_pl.environments.base import Session, between
from sdar_pl.environments.generated import Generated, seed_of
from sdar_pl.environments.global_random import OwnRandom
from sdar_pl.errors import UserError
from sdar_pl.types import Observation, Task


@dataclass
class World:
    """One environment of Gymnasium's interface.

    Args:
        make: path of the function or class that makes it, as module.name.
        arguments: its arguments.
    """

    make: str
    arguments: dict[str, Any] = field(default_factory=dict)


class GymTextSession(Session):
    """One episode; rewards are the environment's own, every turn.

    Args:
        make: makes the environment.
        seed: of its ``reset``, and of the global random generators while it runs.
        threshold: sum of rewards from which an episode that has terminated is a success.
    """

    def __init__(self, make: Callable[[], Any], seed: int, threshold: float) -> None:
        self.random, self.seed, self.threshold = OwnRandom(seed), seed, threshold
        self.total = 0.0
        with self.random.active():
            self.env = make()
        self.last = Observation("")

    def reset(self) -> Observation:
        with self.random.active():
            answer = self.env.reset(seed=self.seed)
        text, info = answer if isinstance(answer, tuple) else (answer, {})
        self.last = Observation(_text(text), _admissible(info))
        return self.last

    def step(self, action: str) -> Observation:
        if self.last.done:
            return replace(self.last, reward=0.0)
        with self.random.active():
            text, reward, *ends, info = self.env.step(action)
        self.total += float(reward)
        done = any(map(bool, ends))
        success = bool(info.get("success", bool(ends[0]) and self.total >= self.threshold))
        self.last = Observation(_text(text), _admissible(info), float(reward), done, done and success)
        return self.last

    def close(self) -> None:
        env, self.env = getattr(self, "env", None), None
        if env is not None and hasattr(env, "close"):
            env.close()


class GymText(Generated):
    """Text environments of Gymnasium's interface.

    Args:
        worlds: name → how it is made; the name is the kind of its tasks.
        instructions: how to answer; null: a sentence that asks for <action> tags.
        threshold: sum of rewards from which an episode that has terminated is a success, > 0, where ``info`` does not
            hold ``success``.
        train_tasks: number of tasks in the split "train".
        validation_tasks: number of tasks in the split "validation".
        test_tasks: number of tasks in the split "test".
        seed: the seeds of ``reset`` are made of it. It does not follow ``seed_everything``.

    Raises ``UserError`` for a world that cannot be made.
    """

    def __init__(
        self,
        worlds: dict[str, World],
        instructions: str | None = None,
        threshold: float = 1.0,
        train_tasks: int = 10_000,
        validation_tasks: int = 64,
        test_tasks: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(tuple(worlds), train_tasks, validation_tasks, test_tasks, seed)
        self.instructions = instructions or "Answer with exactly one action inside <action></action>."
        self.threshold = positive("data.environment.threshold", threshold)
        if not worlds:
            raise UserError("data.environment.worlds: {}; name a world and how it is made")
        self.worlds = {name: world if isinstance(world, World) else World(**world) for name, world in worlds.items()}
        self._make = {name: _function(name, world.make) for name, world in self.worlds.items()}

    def task(self, split: str, index: int) -> Task:
        name = self.kinds[index % len(self.kinds)]
        data = {"world": name, "seed": seed_of(name, split, index, self.seed)}
        return Task(f"{name}/{split}/{index}", name, f"Play {name}.", data)

    def session(self, task: Task) -> GymTextSession:
        name = task.data["world"]
        arguments = self.worlds[name].arguments
        return GymTextSession(lambda: self._make[name](**arguments), task.data["seed"], self.threshold)

    def parse(self, text: str) -> tuple[str, bool]:
        """What stands in the first <action> tags; without them the whole text, invalid."""
        action = between(text, "action")
        return (text.strip(), False) if action is None else (action, True)


def _function(name: str, path: str) -> Callable[..., Any]:
    module, _, attribute = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"data.environment.worlds.{name}.make: {path!r} cannot be imported ({error})") from error
    if not callable(found):
        raise UserError(f"data.environment.worlds.{name}.make: {path!r} is no function and no class")
    return found  # type: ignore[no-any-return]


def _text(observation: Any) -> str:
    if not isinstance(observation, str):
        raise UserError(
            f"data.environment.worlds: an observation is {type(observation).__name__}; wrap the environment so that "
            "observations and actions are texts (sdar_pl/environments/frozen_lake_text.py shows one)"
        )
    return observation


def _admissible(info: Mapping[str, Any]) -> tuple[str, ...]:
    commands: Sequence[Any] = info.get("admissible_commands") or ()
    return tuple(dict.fromkeys(str(command) for command in commands))
