"""Household games whose faults are known beforehand, and an engine that answers from a script."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from helpers.models import make_tokenizer
from sdar_pl.engines.base import Completion, Engine, Request, Sampling
from sdar_pl.environments.faults import FATAL, Faulty
from sdar_pl.environments.household import Household
from sdar_pl.environments.household.rules import HouseholdSession
from sdar_pl.types import Observation, Task


class CountedHousehold(Household):
    """Counts sessions as they are opened and closed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.opened, self.closed = Counter[str](), Counter[str]()
        self.lock = threading.Lock()

    def session(self, task: Task) -> HouseholdSession:
        with self.lock:
            self.opened[task.id] += 1
        return CountedSession(self, task)


class CountedSession(HouseholdSession):
    def __init__(self, world: CountedHousehold, task: Task) -> None:
        super().__init__(world.game(task), world.success_reward)
        self.world, self.task = world, task

    def close(self) -> None:
        with self.world.lock:
            self.world.closed[self.task.id] += 1


class Stuck(Household):
    """Its sessions never come back from their first step, not even when they are closed."""

    def session(self, task: Task) -> HouseholdSession:
        return StuckSession(self.game(task), self.success_reward)


class StuckSession(HouseholdSession):
    def step(self, action: str) -> Observation:
        time.sleep(3600)
        return super().step(action)


def numbered_tasks(world: Household, count: int, games: int = 100) -> list[Task]:
    """``count`` tasks of ``games`` games, each with an id of its own: its sessions are then those of one episode."""
    tasks = world.tasks("train")[:games]
    return [replace(tasks[n % games], id=f"{n}") for n in range(count)]


@dataclass
class Script(Engine):
    """Answers the k-th request of a session with the k-th of its actions, and "look" after the last.

    Args:
        actions: by session.
    """

    actions: dict[int, tuple[str, ...]]
    turns: Counter[int] = field(default_factory=Counter)
    tokens: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tokenizer = make_tokenizer()
        self.prefilled = self.generated = 0

    def sync(self, policy: Any) -> None: ...

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        return [self.answer(request.session) for request in requests]

    def answer(self, session: int) -> Completion:
        turn = self.turns[session]
        self.turns[session] += 1
        action = (*self.actions[session], "look")[min(turn, len(self.actions[session]))]
        if action not in self.tokens:
            self.tokens[action] = self.tokenizer.encode(f"<action>{action}</action><|end|>")
        return Completion(list(self.tokens[action]), [-1.0] * len(self.tokens[action]))

    def release(self, sessions: Sequence[int]) -> None:
        for session in sessions:
            self.turns.pop(session, None)


@dataclass
class Expected:
    """What must come of one episode: how many sessions it takes, which faults they meet, whether it fails for good."""

    attempts: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    failed: bool = True


def expected(world: Faulty, task: Task, calls: int, retries: int) -> Expected:
    """The fate of a task that is played once, whose undisturbed session takes ``calls`` calls (reset and steps)."""
    fate = Expected()
    while fate.failed and fate.attempts <= retries:
        met = [fault for fault, _ in islice(world.faults(task, fate.attempts), calls)]
        fatal = next((number for number, fault in enumerate(met) if fault in FATAL), None)
        fate.injected.update(fault for fault in met[: None if fatal is None else fatal + 1] if fault)
        fate.attempts, fate.failed = fate.attempts + 1, fatal is not None
    return fate
