"""The environment that ``Environment``'s docstring shows, and copies of it that each break a clause of the contract."""

from __future__ import annotations

import inspect
import random
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from sdar_pl.environments.base import Environment, Session, between
from sdar_pl.errors import UserError
from sdar_pl.types import Observation, Task


def documented_example() -> tuple[type[Any], type[Any]]:
    """The classes (Guess, GuessSession) of the docstring."""
    names: dict[str, Any] = {
        **{"Environment": Environment, "Session": Session, "between": between, "UserError": UserError},
        **{"Observation": Observation, "Task": Task, "Sequence": Sequence, "replace": replace},
    }
    docstring = inspect.getdoc(Environment) or ""
    exec(textwrap.dedent(docstring.partition("::")[2]), names)
    return names["Guess"], names["GuessSession"]


Guess, GuessSession = documented_example()


@dataclass(frozen=True)
class Broken:
    """A class that breaks the clause ``check`` of the contract, and words of the violation's line."""

    check: str
    words: str
    make: Callable[[], Environment]


def world(**members: Any) -> Callable[[], Environment]:
    """``Guess`` with other members."""
    return type("BrokenGuess", (Guess,), members)


def plays(**members: Any) -> Callable[[], Environment]:
    """``Guess`` whose sessions have other members."""
    session = type("BrokenSession", (GuessSession,), members)
    return world(session=lambda self, task: session(task.data))


def answers(**fields: Any) -> Callable[[], Environment]:
    """``Guess`` whose sessions answer every step with other fields."""
    return plays(step=lambda self, action: replace(GuessSession.step(self, action), **fields))


def listed(change: Callable[[list[Task]], Any]) -> Callable[[], Environment]:
    """``Guess`` with changed lists of tasks."""
    return world(tasks=lambda self, split: change(Guess.tasks(self, split)))


def _shuffled(tasks: list[Task]) -> list[Task]:
    return random.sample(tasks, len(tasks))


def _without_end(self: Any, action: str) -> Observation:
    self.last = replace(self.last, done=False)
    return GuessSession.step(self, action)


class OneSession(Guess):  # type: ignore[misc, valid-type]
    """Keeps the session of a task for its next player."""

    def __init__(self) -> None:
        self.kept: dict[str, Session] = {}

    def session(self, task: Task) -> Session:
        return self.kept.setdefault(task.id, GuessSession(task.data))


class SharedState(Guess):  # type: ignore[misc, valid-type]
    """Its sessions answer with how often they are asked, and count in common since the last reset."""

    def __init__(self) -> None:
        self.steps = 0

    def session(self, task: Task) -> Session:
        environment = self

        class Counts(GuessSession):  # type: ignore[misc, valid-type]
            def reset(self) -> Observation:
                environment.steps = 0
                return super().reset()

            def step(self, action: str) -> Observation:
                environment.steps += 1
                return replace(super().step(action), text=f"{environment.steps} steps")

        return Counts(task.data)


class NotForThreads(Guess):  # type: ignore[misc, valid-type]
    """Its sessions pass their answers through one common place."""

    text = ""

    def session(self, task: Task) -> Session:
        environment = self

        class Passes(GuessSession):  # type: ignore[misc, valid-type]
            def step(self, action: str) -> Observation:
                answer = super().step(action)
                environment.text = answer.text + str(self.number)
                time.sleep(0.001)
                return replace(answer, text=environment.text)

        return Passes(task.data)


class OtherInstance(Guess):  # type: ignore[misc, valid-type]
    """Each instance has an order of its own."""

    instances = count()

    def __init__(self) -> None:
        self.reverse = next(self.instances) % 2

    def tasks(self, split: str) -> Sequence[Task]:
        return super().tasks(split)[:: -1 if self.reverse else 1]  # type: ignore[no-any-return]


def _changes_its_task(self: Any, task: Task) -> Session:
    task.data.append("played")
    return GuessSession(task.data[0])


def _second_close() -> Callable[[], Environment]:
    def close(self: Any) -> None:
        del self.last

    return plays(close=close)


def _iterator(tasks: list[Task]) -> Iterator[Task]:
    return iter(tasks)


def _shows(cut: Callable[[Any, int], Any]) -> Callable[[], Environment]:
    """``window`` shows another part of the history."""

    def window(self: Any, task: Task, first: Observation, history: Any, steps: int) -> str:
        current = history[-1][1] if history else first
        return "\n".join([task.text, current.text, *(action for action, _ in cut(history, steps))])

    return world(window=window)


class _Number(int):
    """A number with a lock: it can be neither copied nor pickled."""

    def __init__(self, value: int) -> None:
        self.lock = threading.Lock()


BROKEN = (
    Broken("tasks", "more than one task with the id", listed(lambda tasks: [tasks[0], *tasks])),
    Broken("tasks", "Task.text is ''", listed(lambda tasks: [replace(task, text="") for task in tasks])),
    Broken("tasks", "Task.id is 7", listed(lambda tasks: [replace(tasks[0], id=7)])),
    Broken("tasks", "is empty", listed(lambda tasks: [])),
    Broken("tasks", "must be a sequence", listed(_iterator)),
    Broken("tasks", "must be a Task", listed(lambda tasks: ["guess"])),
    Broken("stable", "between two calls", listed(_shuffled)),
    Broken("stable", "between two instances", OtherInstance),
    Broken("kinds", "kinds has no 'guess'", world(kinds=("other",))),
    Broken("kinds", "must be a tuple", world(kinds=["guess"])),
    Broken("splits", "share a task: the data", world(numbers={"train": range(1, 8), "validation": range(7, 10)})),
    Broken("splits", "share a task: the id", listed(lambda tasks: [*tasks, Task("same", "guess", "text")])),
    Broken("unknown_split", "raised KeyError", world(tasks=lambda self, split: [
        Task(f"{split}/{n}", "guess", "text", n) for n in self.numbers[split]])),
    Broken("unknown_split", "returned", world(tasks=lambda self, split: [Task(split, "guess", "text", 1)])),
    Broken("untouched", "changed by playing", world(
        tasks=lambda self, split: [replace(task, data=[task.data]) for task in Guess.tasks(self, split)],
        session=_changes_its_task, expert_plan=lambda self, task: ())),
    Broken("episodes", "raised ValueError", plays(step=lambda self, action: GuessSession.step(self, str(int(action))))),
    Broken("episodes", "reset() of task train/1 returned NoneType", plays(reset=lambda self: None)),
    Broken("episodes", "returned str", plays(step=lambda self, action: "It is higher.")),
    Broken("episodes", "session() returned None", world(session=lambda self, task: None)),
    Broken("episodes", "session() of task train/1 raised", world(session=lambda self, task: GuessSession())),
    Broken("observations", "Observation.text", answers(text=None)),
    Broken("observations", "Observation.admissible", answers(admissible="1")),
    Broken("observations", "a command is 1; must be a text", answers(admissible=("2", 1))),
    Broken("observations", "has a lone surrogate, '\\ud800', at 3", answers(text="It \ud800")),
    Broken("observations", "a command twice", answers(admissible=("1", "1"))),
    Broken("observations", "Observation.reward is nan", answers(reward=float("nan"))),
    Broken("observations", "Observation.reward is '1'", answers(reward="1")),
    Broken("observations", "Observation.reward is True", answers(reward=True)),
    Broken("observations", "Observation.done", answers(done=1)),
    Broken("observations", "Observation.success is None", answers(success=None)),
    Broken("observations", "success without", answers(done=False, success=True)),
    Broken("first_observation", "done or a reward", plays(reset=lambda self: replace(self.last, done=True))),
    Broken("first_observation", "done or a reward", plays(reset=lambda self: replace(self.last, reward=0.5))),
    Broken("after_done", "goes on", plays(step=_without_end)),
    Broken("after_done", "reward 1.0", plays(
        step=lambda self, action: self.last if self.last.done else GuessSession.step(self, action))),
    Broken("single_use", "the same session twice", OneSession),
    Broken("single_use", "a second session beside it", SharedState),
    Broken("deterministic", "text of observation", plays(
        step=lambda self, action: replace(GuessSession.step(self, action), text=str(random.random())))),
    Broken("threads", "in several threads", NotForThreads),
    Broken("admissible", "'10' is answered with 'Not a number", plays(
        reset=lambda self: replace(self.last, admissible=("10",)))),
    Broken("close", "close() before reset() raised AttributeError", plays(close=lambda self: self.process.kill())),
    Broken("close", "a second close() raised", _second_close()),
    Broken("expert_plan", "does not end in success", world(expert_plan=lambda self, task: ("0",))),
    Broken("expert_plan", "does not end in success", world(expert_plan=lambda self, task: (str(task.data), "1"))),
    Broken("expert_plan", "must be a tuple", world(expert_plan=lambda self, task: [str(task.data)])),
    Broken("parse", "raised IndexError", world(parse=lambda self, text: (text.split()[0], True))),
    Broken("parse", "must be (text, bool)", world(parse=lambda self, text: (between(text, "guess"), True))),
    Broken("parse", "must be (text, bool)", world(parse=lambda self, text: text)),
    Broken("parse", "between two calls", world(parse=lambda self, text: (str(random.random()), True))),
    Broken("conversation", "opening() returned ''", world(opening=lambda self, task, first: "")),
    Broken("conversation", "opening() does not show", world(opening=lambda self, task, first: "Guess a number.")),
    Broken("conversation", "reply() returned None", world(reply=lambda self, observation: None)),
    Broken("conversation", "reply() does not show", world(reply=lambda self, observation: "Wrong.")),
    Broken("conversation", "between two calls", world(reply=lambda self, observation: str(random.random()))),
    Broken("window", "steps=0) after 5 turns", _shows(lambda history, steps: history[-steps:])),
    Broken("window", "shows 5 actions; must show the last 1", _shows(lambda history, steps: history)),
    Broken("window", "must show the last", _shows(lambda history, steps: history[:steps])),
    Broken("window", "raised IndexError", world(
        window=lambda self, task, first, history, steps: f"{task.text} {history[-1][0]}")),
    Broken("window", "does not show the current observation", world(
        window=lambda self, task, first, history, steps: " ".join(
            [task.text, *(action for action, _ in history[max(0, len(history) - steps) :])]))),
    Broken("plain_data", "cannot be saved", listed(
        lambda tasks: [replace(task, data=_Number(task.data)) for task in tasks])),
)  # fmt: skip
