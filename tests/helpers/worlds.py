"""Small worlds for tests: an environment without rules, and sessions that misbehave."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sdar_pl.environments.base import Environment, Session
from sdar_pl.errors import UserError
from sdar_pl.types import Observation, Task


@dataclass
class EchoSession(Session):
    """Answers with as many words as the turn has number, for ``turns`` turns. Rewards the last."""

    task: Task
    turns: int
    log: list[str]
    number: int = 0

    def reset(self) -> Observation:
        return Observation(f"you are in room {self.task.id}.")

    def step(self, action: str) -> Observation:
        self.number += 1
        done = self.number == self.turns
        text = f"{len(action)} go to " + " ".join(["shelf"] * (self.number + len(self.task.id) % 3))
        return Observation(text, reward=float(done), done=done, success=done)

    def close(self) -> None:
        self.log.append(self.task.id)


@dataclass
class Echo(Environment):
    """``make`` replaces the session of some plays: it is given the task and the count of its sessions so far."""

    turns: int = 3
    make: Callable[[Task, int], Session | None] = lambda task, count: None
    opened: dict[str, int] = field(default_factory=dict)
    closed: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    kinds: tuple[str, ...] = ("echo",)

    def tasks(self, split: str) -> Sequence[Task]:
        return [Task(str(n), "echo", f"task {n}") for n in range(64)]

    def session(self, task: Task) -> Session:
        with self.lock:
            count = self.opened[task.id] = self.opened.get(task.id, 0) + 1
        return self.make(task, count - 1) or EchoSession(task, self.turns, self.closed)

    def parse(self, text: str) -> tuple[str, bool]:
        return text, "a" in text

    def opening(self, task: Task, first: Observation) -> str:
        return f"{task.text}: {first.text}"

    def reply(self, observation: Observation) -> str:
        return observation.text

    def window(self, task: Task, first: Observation, history: Sequence[tuple[str, Observation]], steps: int) -> str:
        shown = [f"{action} > {observation.text}" for action, observation in history[max(0, len(history) - steps) :]]
        return "\n".join([task.text, first.text, f"step {len(history)}", *shown])


class Raises(EchoSession):
    """Raises at its second step."""

    def step(self, action: str) -> Observation:
        if self.number:
            raise ValueError("boom")
        return super().step(action)


class Unprintable(EchoSession):
    """Raises what cannot be printed."""

    def step(self, action: str) -> Observation:
        class MuteError(Exception):
            def __str__(self) -> str:
                raise RuntimeError

        raise MuteError


class Wrong(EchoSession):
    """Answers something that is no observation."""

    def step(self, action: str) -> Observation:
        return "nonsense"  # type: ignore[return-value]


class Ended(EchoSession):
    """Has ended before its first step."""

    def reset(self) -> Observation:
        return replace(super().reset(), done=True)


def answers(**fields: Any) -> type[EchoSession]:
    """Sessions that answer their second step with other fields."""

    class Answers(EchoSession):
        def step(self, action: str) -> Observation:
            answer = super().step(action)
            return replace(answer, **fields) if self.number == 2 else answer

    return Answers


class Missing(EchoSession):
    """Needs something that the user must bring."""

    def reset(self) -> Observation:
        raise UserError("games.zip: missing")


class Slow(EchoSession):
    """Takes ``seconds`` for a step."""

    seconds = 0.05

    def step(self, action: str) -> Observation:
        time.sleep(self.seconds)
        return super().step(action)


class Hangs(Slow):
    """Never comes back in time."""

    seconds = 30.0


class HangsOpening(EchoSession):
    """Comes back from ``reset`` only when ``release`` is set."""

    release = threading.Event()

    def reset(self) -> Observation:
        self.release.wait(30)
        return super().reset()


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until ``condition`` holds; fail after ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.005)
