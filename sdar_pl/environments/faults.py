"""Faulty: another environment whose sessions raise, hang, dawdle and talk nonsense at given rates.

It tests what a run survives, by configuration alone. Faults are of sessions (``reset`` and ``step``). Tasks and words
are the wrapped environment's own.
"""

from __future__ import annotations

import math
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, Literal, cast

from sdar_pl.checks import at_least, between
from sdar_pl.environments.base import Environment, Player, Session
from sdar_pl.errors import UserError
from sdar_pl.types import Observation, Task

Fault = Literal["exceptions", "hangs", "nonsense", "slow", ""]

#: the faults that end a session; a slow call is none
FATAL = frozenset({"exceptions", "hangs", "nonsense"})

#: fields that make an observation invalid; None stands for no observation at all
NONSENSE: tuple[dict[str, Any] | None, ...] = (
    None,
    {"text": None},
    {"text": b"You see a desk."},
    {"text": "You see a \ud800."},
    {"admissible": "look"},
    {"admissible": ("look", 7)},
    {"reward": math.nan},
    {"reward": -math.inf},
    {"reward": "1"},
    {"done": None},
    {"done": False, "success": True},
)


class InjectedError(Exception):
    """An injected fault. The message names it and the call."""


class Faulty(Environment):
    """Another environment with faults injected into its sessions.

    The faults of a task's k-th session depend on (seed, task, k) alone.

    Args:
        environment: the environment whose sessions get the faults.
        exceptions: share of calls of ``reset`` and ``step`` that raise (0 to 1).
        hangs: share of calls that do not return before the session is closed (0 to 1).
        nonsense: share of calls whose answer is no valid Observation: None, a NaN reward, a text of bytes … (0 to 1).
        slow: share of calls that take ``delay`` longer (0 to 1).
        delay: seconds.
        seed: of the faults. It does not follow ``seed_everything``.

    ``injected`` counts the faults so far. Raises ``UserError`` for shares whose sum is above 1.
    """

    def __init__(
        self,
        environment: Environment,
        exceptions: float = 0.0,
        hangs: float = 0.0,
        nonsense: float = 0.0,
        slow: float = 0.0,
        delay: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.environment, self.kinds, self.seed = environment, environment.kinds, seed
        self.delay = at_least("data.environment.delay", delay, 0)
        self.rates = {"exceptions": exceptions, "hangs": hangs, "nonsense": nonsense, "slow": slow}
        for name, rate in self.rates.items():
            between(f"data.environment.{name}", rate, 0, 1)
        if sum(self.rates.values()) > 1:
            raise UserError(f"data.environment: {', '.join(self.rates)} add up to {sum(self.rates.values()):g}; "
                            "must be ≤ 1")  # fmt: skip
        self.injected = Counter[str]()
        self.sessions = Counter[str]()  # by task
        self._lock = threading.Lock()

    def faults(self, task: Task, number: int) -> Iterator[tuple[Fault, random.Random]]:
        """The fault of each call of the task's session ``number`` (from 0), with the stream of its details."""
        stream = random.Random(f"{self.seed}/{task.id}/{number}")
        while True:
            drawn = stream.random()
            limits = zip(self.rates, accumulate(self.rates.values()), strict=True)
            yield next((name for name, limit in limits if drawn < limit), ""), stream  # type: ignore[misc]

    def session(self, task: Task) -> Session:
        with self._lock:
            number = self.sessions[task.id]
            self.sessions[task.id] += 1
        return FaultySession(self.environment.session(task), self.faults(task, number), self.delay, self._count)

    def _count(self, fault: Fault) -> None:
        with self._lock:
            self.injected[fault] += 1

    # ------------------------------------------------------------------ the wrapped environment's own

    @property
    def knows_solutions(self) -> bool:
        return self.environment.knows_solutions

    def tasks(self, split: str) -> Sequence[Task]:
        return self.environment.tasks(split)

    def players(self, task: Task, rng: random.Random) -> tuple[Player, Player]:
        return self.environment.players(task, rng)

    def response(self, action: str) -> str:
        return self.environment.response(action)

    def expert_plan(self, task: Task) -> tuple[str, ...]:
        return self.environment.expert_plan(task)

    def parse(self, text: str) -> tuple[str, bool]:
        return self.environment.parse(text)

    def opening(self, task: Task, first: Observation) -> str:
        return self.environment.opening(task, first)

    def reply(self, observation: Observation) -> str:
        return self.environment.reply(observation)

    def window(self, task: Task, first: Observation, history: Sequence[tuple[str, Observation]], steps: int) -> str:
        return self.environment.window(task, first, history, steps)


class FaultySession(Session):
    """A session whose calls meet the given faults, one each; ``count`` receives every fault that is injected."""

    def __init__(
        self,
        session: Session,
        faults: Iterator[tuple[Fault, random.Random]],
        delay: float,
        count: Callable[[Fault], None],
    ) -> None:
        self.session, self.faults, self.delay, self.count = session, faults, delay, count
        self.closed = threading.Event()

    def reset(self) -> Observation:
        return self._call("reset()", self.session.reset)

    def step(self, action: str) -> Observation:
        return self._call("step()", lambda: self.session.step(action))

    def close(self) -> None:
        self.closed.set()
        self.session.close()

    def _call(self, name: str, call: Callable[[], Observation]) -> Observation:
        fault, stream = next(self.faults)
        if fault:
            self.count(fault)
        if fault == "exceptions":
            raise InjectedError(f"{name} raises")
        if fault == "hangs":
            self.closed.wait()
            raise InjectedError(f"{name} hung until the session was closed")
        if fault == "slow":
            self.closed.wait(self.delay)
        answer = call()
        return spoilt(answer, stream.choice(NONSENSE)) if fault == "nonsense" else answer


def spoilt(answer: Observation, fields: dict[str, Any] | None) -> Observation:
    """The answer with these fields; no answer for None."""
    return cast("Observation", None) if fields is None else replace(answer, **fields)
