"""The default environment: generated household games, no data and no download.

Tasks are made when they are asked for, so a split of a hundred thousand costs nothing until it is read.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, overload
from zlib import crc32

from sdar_pl.environments.household.expert import Expert
from sdar_pl.environments.household.game import KINDS, Game
from sdar_pl.environments.household.generator import Size, generate
from sdar_pl.environments.household.prompts import HouseholdPrompts
from sdar_pl.environments.household.rules import HouseholdSession
from sdar_pl.errors import UserError
from sdar_pl.types import Task

#: split → the tenths of all possible games that are its own: the splits are disjoint in what the games
#: are, not only in their seeds
_SHARES = {"train": range(8), "validation": range(8, 9), "test": range(9, 10)}


def share(game: Game) -> int:
    """Which tenth of all games this one is in (0–9): by its goal and contents, whatever its id and wording."""
    goal = (game.goal.kind, game.goal.object, game.goal.receptacle)
    furniture = [(receptacle.name, receptacle.openable) for receptacle in game.receptacles]
    return crc32(repr((goal, furniture, [(thing.name, thing.place) for thing in game.things])).encode()) % 10


@dataclass(frozen=True)
class Tasks(Sequence[Task]):
    """The tasks of one split, made on access. The k-th has the kind ``kinds[k % len(kinds)]``."""

    split: str
    number: int
    kinds: tuple[str, ...]
    size: Size
    seed: int

    def __len__(self) -> int:
        return self.number

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> list[Task]: ...
    def __getitem__(self, index: int | slice) -> Task | list[Task]:
        if isinstance(index, slice):
            return [self._task(k) for k in range(*index.indices(self.number))]
        return self._task(range(self.number)[index])  # counts from the end and raises as a list would

    def _task(self, index: int) -> Task:
        kind = self.kinds[index % len(self.kinds)]
        attempt = 0
        while True:
            words = f"{self.size}/{self.seed}/{self.split}/{index}/{attempt}"
            seed = int.from_bytes(blake2b(words.encode(), digest_size=6).digest(), "big")
            game = generate(seed, kind=kind, size=self.size)
            if share(game) in _SHARES[self.split]:
                data = {"seed": seed, "kind": kind, "size": self.size}
                return Task(f"household/{self.split}/{index}", kind, game.text, data)
            attempt += 1


class Household(HouseholdPrompts):
    """Generated games in a household of the given ``size`` (generator.py).

    ``kinds`` None: all six, in turn. ``seed`` chooses another world of tasks. Other arguments as in
    ``HouseholdPrompts``; ``success_reward`` is given for the winning step. Raises ``UserError`` for an
    unknown size or kind, or fewer than one task.
    """

    def __init__(
        self,
        size: Size = "small",
        train_tasks: int = 100_000,
        validation_tasks: int = 64,
        test_tasks: int = 128,
        kinds: Sequence[str] | None = None,
        seed: int = 0,
        think: bool = False,
        show_admissible: bool = False,
        success_reward: float = 10.0,
    ) -> None:
        super().__init__(think=think, show_admissible=show_admissible)
        chosen: Any = KINDS if kinds is None else tuple(kinds)  # Any: the class's own ``kinds`` are exactly six
        self.kinds = chosen
        self.size = size
        self.seed = seed
        self.success_reward = success_reward
        self.numbers = {"train": train_tasks, "validation": validation_tasks, "test": test_tasks}
        for split, number in self.numbers.items():
            if number < 1:
                raise UserError(f"household: {split}_tasks is {number}: ask for at least one")
        if not self.kinds:
            raise UserError(f"household: kinds is empty: name some of {', '.join(KINDS)}, or leave it out for all")
        for kind in self.kinds:
            generate(0, kind=kind, size=size)  # an unknown kind or size is told here, not in the middle of training

    def tasks(self, split: str) -> Tasks:
        if split not in self.numbers:
            raise UserError(f"household has no split {split!r}: use one of {', '.join(self.numbers)}")
        return Tasks(split, self.numbers[split], self.kinds, self.size, self.seed)

    def game(self, task: Task) -> Game:
        """The game behind a task of this environment, whatever its split."""
        return generate(**task.data)

    def session(self, task: Task) -> HouseholdSession:
        return HouseholdSession(self.game(task), self.success_reward)

    def expert_plan(self, task: Task) -> tuple[str, ...]:
        """The expert's commands from the start to success: a reference solution."""
        play, expert = self.session(task), Expert(task.text, random.Random(task.id))
        observation, actions = play.reset(), list[str]()
        while not observation.done:
            actions.append(expert.act(observation))
            observation = play.step(actions[-1])
        return tuple(actions)
