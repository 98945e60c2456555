"""Generated: what adapters of other people's environments share: tasks made on access, and a wording of plain texts.

The first observation of such an environment states the task, every later one is its answer to an action.
"""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any, overload

from sdar_pl.checks import at_least, between
from sdar_pl.environments.base import Environment
from sdar_pl.errors import UserError
from sdar_pl.types import Observation, Task


@dataclass(frozen=True)
class TasksOnAccess(Sequence[Task]):
    """``number`` tasks; ``make`` makes the k-th when it is read."""

    number: int
    make: Callable[[int], Task]

    def __len__(self) -> int:
        return self.number

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> list[Task]: ...
    def __getitem__(self, index: int | slice) -> Task | list[Task]:
        if isinstance(index, slice):
            return [self.make(k) for k in range(*index.indices(self.number))]
        return self.make(range(self.number)[index])


class Generated(Environment):
    """Base of the adapters; a subclass adds ``task``, ``session`` and ``parse``.

    Args:
        kinds: names of the worlds; the k-th task of a split is of the kind ``kinds[k % len(kinds)]``.
        train_tasks: number of tasks in the split "train", 1 to 10 million.
        validation_tasks: number of tasks in the split "validation".
        test_tasks: number of tasks in the split "test".
        seed: another seed makes other tasks. It does not follow ``seed_everything``.
    """

    #: how to answer, as the policy reads it
    instructions: str = ""

    def __init__(
        self, kinds: Sequence[str], train_tasks: int, validation_tasks: int, test_tasks: int, seed: int
    ) -> None:
        self.kinds, self.seed = tuple(kinds), at_least("data.environment.seed", seed, 0)
        self.numbers = {"train": train_tasks, "validation": validation_tasks, "test": test_tasks}
        for split, number in self.numbers.items():
            between(f"data.environment.{split}_tasks", number, 1, 10_000_000)

    def tasks(self, split: str) -> TasksOnAccess:
        if split not in self.numbers:
            name = type(self).__name__
            raise UserError(f"data.environment: {name} has no split {split!r}; use {', '.join(self.numbers)}")
        return TasksOnAccess(self.numbers[split], partial(self.task, split))

    @abstractmethod
    def task(self, split: str, index: int) -> Task:
        """The task ``index`` of a split, a function of (kind, split, index, seed)."""

    # ------------------------------------------------------------------ wording

    def opening(self, task: Task, first: Observation) -> str:
        return f"{first.text}\n\n{self.instructions}"

    def reply(self, observation: Observation) -> str:
        return observation.text or "(no text)"

    def window(self, task: Task, first: Observation, history: Sequence[tuple[str, Observation]], steps: int) -> str:
        begin = max(0, len(history) - steps)
        parts = [first.text]
        if history:
            parts.append(f"Turns so far: {len(history)}.")
        for number, (action, answer) in enumerate(history[begin:], begin + 1):
            parts.append(f"[Turn {number}] Action: {action}\n[Turn {number}] Answer: {answer.text}")
        if history and begin == len(history):
            parts.append(f"[Turn {begin}] Answer: {history[-1][1].text}")
        return "\n\n".join([*parts, self.instructions])


def seed_of(*words: object) -> int:
    """A seed of 31 bits, the same for the same words."""
    return int.from_bytes(blake2b("/".join(map(str, words)).encode(), digest_size=4).digest(), "big") >> 1


def package(module: str, extra: str, user: str) -> Any:
    """Import the package of an adapter. Raises ``UserError`` where it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise UserError(
            f"data.environment: {user} needs the package {module!r}; pip install 'sdar_pl[{extra}]'"
        ) from error
