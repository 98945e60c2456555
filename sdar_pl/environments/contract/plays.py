"""Random, garbage and scripted episodes, recorded: what the checks of the contract look at."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from sdar_pl.environments.base import Environment, Session
from sdar_pl.environments.observations import brief, plain
from sdar_pl.errors import UserError
from sdar_pl.types import Observation, Task

T = TypeVar("T")

#: model outputs that no environment understands, and that none may raise on
GARBAGE = (
    *("", " ", "\n\n", "\x00\x07\x1b[31m\r", "null", "-1", "{}", "[]", "%s %d", "\\", "'\"", "💥 你好 \u202e\u0301"),
    *("go to nowhere 99", "a" * 100_000, "word " * 20_000),
)


class ContractError(Exception):
    """A violation that ends the check which meets it. The message is the violation."""


class NotCheckedError(Exception):
    """A check has nothing to look at. The message is the reason."""


@dataclass(frozen=True)
class Play:
    """One recorded episode: the first observation, then each action with the observation that answers it."""

    task: Task
    first: Observation
    steps: list[tuple[str, Observation]]

    @property
    def observations(self) -> list[Observation]:
        return [self.first, *(observation for _, observation in self.steps)]

    @property
    def last(self) -> Observation:
        return self.observations[-1]


@dataclass(frozen=True)
class Subject:
    """An environment under check.

    Args:
        make: makes one more instance of the environment; all instances must agree.
        splits: names of its splits; the first one is played.
        episodes: tasks that are played, of as many kinds as there are.
        turns: longest random or garbage episode.
        sampled_tasks: tasks that are looked at of a split that is no list and no tuple: its first ones, and as many
            spread over the rest. A list is looked at whole.
    """

    make: Callable[[], Environment]
    splits: Sequence[str] = ("train",)
    episodes: int = 6
    turns: int = 40
    sampled_tasks: int = 100

    @cached_property
    def environment(self) -> Environment:
        return self.make()

    @cached_property
    def sampled(self) -> dict[str, list[Task]]:
        """Tasks of each split."""
        return {split: self.sample(self.environment, split) for split in self.splits}

    @cached_property
    def tasks(self) -> list[Task]:
        """The tasks that are played: the first of each kind, then the second of each, and so on."""
        seen = Counter[str]()
        ranked = []
        for task in self.sampled[self.splits[0]]:
            ranked.append((seen[task.kind], task))
            seen[task.kind] += 1
        return [task for _, task in sorted(ranked, key=lambda pair: pair[0])][: self.episodes]

    @cached_property
    def random_plays(self) -> list[Play]:
        """Admissible commands at random; where none are listed, the expert's actions and garbage."""
        return [play(self.environment, task, self._random_player(task), self.turns) for task in self.tasks]

    @cached_property
    def garbage_plays(self) -> list[Play]:
        """Every piece of garbage as an action, once in each episode."""
        return [scripted(self.environment, task, self.garbage(task)) for task in self.tasks]

    @cached_property
    def expert_plays(self) -> list[Play]:
        """The expert's plans of the tasks that have one, played to their last action."""
        plans = [(task, call("expert_plan()", self.environment.expert_plan, task)) for task in self.tasks]
        return [scripted(self.environment, task, plan) for task, plan in plans if plan]

    @cached_property
    def plays(self) -> list[Play]:
        return [*self.random_plays, *self.garbage_plays, *self.expert_plays]

    def sample(self, environment: Environment, split: str) -> list[Task]:
        """Tasks of a split. Raises ``ContractError`` for what is not a sequence of tasks."""
        tasks = call(f"tasks({split!r})", environment.tasks, split)
        if not isinstance(tasks, Sequence):
            raise ContractError(f"tasks({split!r}) returned {type(tasks).__name__}; must be a sequence, such as a list")
        if not len(tasks):
            raise ContractError(f"tasks({split!r}) is empty")
        number, most = len(tasks), len(tasks) if isinstance(tasks, (list, tuple)) else self.sampled_tasks
        indices = sorted({*range(min(number, most)), *range(0, number, -(-number // most))})
        chosen = [call(f"tasks({split!r})[{index}]", tasks.__getitem__, index) for index in indices]
        for task in chosen:
            if not isinstance(task, Task):
                raise ContractError(f"tasks({split!r}) holds {brief(task)}; must be a Task")
        return chosen

    def garbage(self, task: Task) -> list[str]:
        """``GARBAGE``, and the tags that the instructions mention: unclosed, empty, reversed and repeated."""
        opening = call("opening()", self.environment.opening, task, Observation(task.text))
        tags = sorted(set(re.findall(r"<(\w+)>", str(opening))) | {"action"})
        broken = ["<{0}>", "</{0}>", "<{0}>x", "<{0}></{0}>", "</{0}>x<{0}>", "<{0}><{0}>x</{0}>", "<{0}>\x00</{0}>"]
        return [*GARBAGE, *(form.format(tag) for tag in tags for form in broken), *(f"<{tag}>" * 1000 for tag in tags)]

    def _random_player(self, task: Task) -> Callable[[Observation], str]:
        rng = random.Random(task.id)
        others = [*call("expert_plan()", self.environment.expert_plan, task), *self.garbage(task)[:20]]
        return lambda observation: rng.choice(observation.admissible or others)


def call(what: str, function: Callable[..., T], *arguments: object) -> T:
    """``function(*arguments)``. Raises ``ContractError`` for every exception but the user's own (``UserError``)."""
    try:
        return function(*arguments)
    except (UserError, ContractError):
        raise
    except Exception as error:
        raise ContractError(f"{what} raised {type(error).__name__}: {brief(str(error))}") from error


def reset(session: Session, task: Task) -> Observation:
    return _observed(f"reset() of task {task.id}", call(f"reset() of task {task.id}", session.reset))


def step(session: Session, action: str, task: Task) -> Observation:
    what = f"step({brief(action)}) of task {task.id}"
    return _observed(what, call(what, session.step, action))


def play(environment: Environment, task: Task, choose: Callable[[Observation], str], turns: int) -> Play:
    """One episode whose actions ``choose`` makes of the observations. Raises ``ContractError``."""
    with closing(open_session(environment, task)) as session:
        recorded = Play(task, reset(session, task), [])
        while not recorded.last.done and len(recorded.steps) < turns:
            action = choose(recorded.last)
            recorded.steps.append((action, step(session, action, task)))
    return recorded


def scripted(environment: Environment, task: Task, actions: Sequence[str]) -> Play:
    """One episode with these actions, up to the first observation that is ``done``."""
    left = iter(actions)
    return play(environment, task, lambda _: next(left), len(actions))


def open_session(environment: Environment, task: Task) -> Session:
    session = call(f"session() of task {task.id}", environment.session, task)
    if not isinstance(session, Session):
        raise ContractError(f"session() returned {type(session).__name__}; must be a Session")
    return session


def _observed(what: str, answer: object) -> Observation:
    if not isinstance(answer, Observation):
        raise ContractError(f"{what} returned {type(answer).__name__}; must be an Observation")
    return plain(answer)
