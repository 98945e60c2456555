"""The default environment: generated household games, no data and no download.

A task is generated when it is read, so a split of 100,000 tasks costs nothing at start.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import overload
from zlib import crc32

from sdar_pl.checks import at_least, between, one_of
from sdar_pl.environments.household.expert import Expert, Novice
from sdar_pl.environments.household.game import Game, chosen_kinds
from sdar_pl.environments.household.generator import SIZES, Size, generate
from sdar_pl.environments.household.macros import MacroExpert, MacroSession, lies_open
from sdar_pl.environments.household.prompts import HouseholdPrompts
from sdar_pl.environments.household.rules import HouseholdSession
from sdar_pl.errors import UserError
from sdar_pl.types import Task

#: split → the hash buckets whose games it owns: no game can occur in two splits, whatever the seeds
_BUCKETS = {"train": range(8), "validation": range(8, 9), "test": range(9, 10)}


def bucket(game: Game) -> int:
    """Hash of a game's goal and contents, 0–9; its id and its wording do not count."""
    goal = (game.goal.kind, game.goal.object, game.goal.receptacle)
    furniture = [(receptacle.name, receptacle.openable) for receptacle in game.receptacles]
    return crc32(repr((goal, furniture, [(thing.name, thing.place) for thing in game.things])).encode()) % 10


@dataclass(frozen=True)
class Tasks(Sequence[Task]):
    """The tasks of one split, generated on access. The k-th has the kind ``kinds[k % len(kinds)]``."""

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
            if bucket(game) in _BUCKETS[self.split]:
                data = {"seed": seed, "kind": kind, "size": self.size}
                return Task(f"household/{self.split}/{index}", kind, game.text, data)
            attempt += 1


class Household(HouseholdPrompts):
    """Generated games in a household.

    Args:
        size: of a game; "tiny" (5–7 receptacles, 4–6 objects), "small" (8–11, 8–12) or "full" (20–30, 25–40).
        train_tasks: number of tasks in the split "train" (1 to 10 million). A task is generated when it is played.
        validation_tasks: number of tasks in the split "validation" (1 to 10 million).
        test_tasks: number of tasks in the split "test" (1 to 10 million).
        kinds: task kinds, in turn; null means all six, in the order of ``game.KINDS``.
        train_kinds: those of the split "train" where they are others; the panel then shows what carries over.
        seed: of the generator; another seed makes other tasks. It does not follow ``seed_everything``.
        think: ask for reasoning in <think> tags before the action, and count an output without them as invalid.
        show_admissible: list the admissible commands with every observation.
        success_reward: reward of the step that wins; every other step has reward 0.
        macros: understand "fetch <object>" as well: a helper brings an object that lies open (macros.py).

    Raises ``UserError`` for an unknown size or kind, no kind, and fewer than one task.
    """

    def __init__(
        self,
        size: Size = "small",
        train_tasks: int = 100_000,
        validation_tasks: int = 64,
        test_tasks: int = 128,
        kinds: Sequence[str] | None = None,
        train_kinds: Sequence[str] | None = None,
        seed: int = 0,
        think: bool = False,
        show_admissible: bool = False,
        success_reward: float = 10.0,
        macros: bool = False,
    ) -> None:
        super().__init__(think=think, show_admissible=show_admissible)
        self.macros = macros
        panel = chosen_kinds(kinds)
        train = panel if train_kinds is None else chosen_kinds(train_kinds, "data.environment.train_kinds")
        self.kinds = tuple(dict.fromkeys((*train, *panel)))
        self.kinds_of = {"train": train, "validation": panel, "test": panel}
        self.size = one_of("data.environment.size", size, SIZES)
        self.seed = seed
        self.success_reward = at_least("data.environment.success_reward", success_reward, 0)
        self.numbers = {"train": train_tasks, "validation": validation_tasks, "test": test_tasks}
        for split, number in self.numbers.items():
            between(f"data.environment.{split}_tasks", number, 1, 10_000_000)

    def tasks(self, split: str) -> Tasks:
        if split not in self.numbers:
            raise UserError(f"data.environment: Household has no split {split!r}; use {', '.join(self.numbers)}")
        return Tasks(split, self.numbers[split], self.kinds_of[split], self.size, self.seed)

    def game(self, task: Task) -> Game:
        """The game of a task of this environment, of any split."""
        return generate(**task.data)

    def session(self, task: Task) -> HouseholdSession:
        return (MacroSession if self.macros else HouseholdSession)(self.game(task), self.success_reward)

    def profits_from_tools(self, task: Task) -> bool:
        """Whether "fetch" saves steps: an object of the goal lies open when the game begins."""
        return self.macros and lies_open(self.game(task))

    def players(self, task: Task, rng: random.Random) -> tuple[Expert, Novice]:
        return Expert(task.text, rng), Novice(task.text, rng)

    def expert_plan(self, task: Task) -> tuple[str, ...]:
        """The expert's commands from the start to success: a reference solution."""
        session, expert = self.session(task), Expert(task.text, random.Random(task.id))
        if self.profits_from_tools(task):
            expert = MacroExpert(task.text, random.Random(task.id))
        observation, actions = session.reset(), list[str]()
        while not observation.done:
            actions.append(expert.act(observation))
            observation = session.step(actions[-1])
        return tuple(actions)
