"""Environment and Session: tasks, their episodes, and the words in which a policy meets them.

Environments import neither torch nor lightning: everything here is plain text, and prompts.py makes tokens of it. The
contract that every class must keep stands in contract/; ``python -m sdar_pl check-env module.Class`` checks yours.
"""

from __future__ import annotations

import random
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from sdar_pl.errors import UserError
from sdar_pl.types import Observation, Task


class Session(ABC):
    """One episode of one task. It is single-use: ``reset`` once, ``step`` until ``done``, then ``close``.

    A session is used by one thread at a time, not always by the same one. It shares no state with other sessions.
    """

    @abstractmethod
    def reset(self) -> Observation:
        """Start the episode. It is called exactly once."""

    @abstractmethod
    def step(self, action: str) -> Observation:
        """Take one action.

        An action that the environment does not understand is answered with an observation; an exception means that
        the session is broken, and the episode is played again on another. After ``done`` a further step either raises
        or returns ``done`` again, with reward 0.
        """

    def close(self) -> None:  # noqa: B027 - most sessions hold nothing
        """Give back what the session holds (a process, a socket). It may be called at any time, and twice."""


class Player(Protocol):
    """A scripted player of one task."""

    def act(self, observation: Observation) -> str:
        """The next action. ``observation`` answers the last one; the first is that of ``reset``."""


class Environment(ABC):
    r"""A family of tasks and the wording in which they are put to a policy.

    Example:
        A complete environment (tests/contracts/test_environments.py runs it)::

            class GuessSession(Session):
                def __init__(self, number: int) -> None:
                    self.number = number
                    self.last = Observation("What is your guess?", admissible=tuple("123456789"))

                def reset(self) -> Observation:
                    return self.last

                def step(self, action: str) -> Observation:
                    if self.last.done:
                        return replace(self.last, reward=0.0)
                    if action not in self.last.admissible:
                        self.last = replace(self.last, text="Not a number from 1 to 9.")
                    elif int(action) != self.number:
                        hint = "higher" if int(action) < self.number else "lower"
                        self.last = replace(self.last, text=f"It is {hint}.")
                    else:
                        self.last = Observation("Right.", reward=1.0, done=True, success=True)
                    return self.last


            class Guess(Environment):
                kinds = ("guess",)
                numbers = {"train": range(1, 8), "validation": range(8, 10)}

                def tasks(self, split: str) -> Sequence[Task]:
                    if split not in self.numbers:
                        raise UserError(f"data.environment: no split {split!r}; use {' or '.join(self.numbers)}")
                    text = "guess a number from 1 to 9"
                    return [Task(f"{split}/{n}", "guess", text, data=n) for n in self.numbers[split]]

                def session(self, task: Task) -> Session:
                    return GuessSession(task.data)

                def expert_plan(self, task: Task) -> tuple[str, ...]:
                    return (str(task.data),)

                def parse(self, text: str) -> tuple[str, bool]:
                    guess = between(text, "guess")
                    return guess or "", guess is not None

                def opening(self, task: Task, first: Observation) -> str:
                    return f"Your task: {task.text}. Answer with <guess>number</guess>.\n\n{first.text}"

                def reply(self, observation: Observation) -> str:
                    return observation.text

                def window(
                    self, task: Task, first: Observation, history: Sequence[tuple[str, Observation]], steps: int
                ) -> str:
                    shown = history[max(0, len(history) - steps) :]
                    current = history[-1][1] if history else first
                    guesses = [f"Guess {action}: {observation.text}" for action, observation in shown]
                    return "\n".join([self.opening(task, current), *guesses])
    """

    #: every ``Task.kind`` that can occur
    kinds: tuple[str, ...] = ()

    @abstractmethod
    def tasks(self, split: str) -> Sequence[Task]:
        """All tasks of a split, in an order that never changes. Ids are unique over all splits.

        Raises ``UserError`` for an unknown split.
        """

    @abstractmethod
    def session(self, task: Task) -> Session:
        """A new session. It is called from several threads at the same time.

        Same task, same actions: same observations.
        """

    def expert_plan(self, task: Task) -> tuple[str, ...]:
        """The actions of a known solution, for a teacher to read; empty where none is known."""
        return ()

    @property
    def knows_solutions(self) -> bool:
        """Whether ``expert_plan`` can know a solution of any task."""
        return type(self).expert_plan is not Environment.expert_plan

    def players(self, task: Task, rng: random.Random) -> tuple[Player, Player]:
        """An expert and a novice of the task, whose episodes a warm-up imitates (warmup/scripted_play.py).

        Raises ``UserError`` where there are none.
        """
        raise UserError(
            f"data.environment: {type(self).__name__} has no scripted players to imitate; set data.demonstrations to "
            "sdar_pl.warmup.ChatFile"
        )

    def response(self, action: str) -> str:
        """The response in which a player of ``players`` gives an action; ``parse`` reads the action out of it."""
        return action

    @abstractmethod
    def parse(self, text: str) -> tuple[str, bool]:
        """Model output → (action, whether the output has the format that was asked for). It never raises."""

    @abstractmethod
    def opening(self, task: Task, first: Observation) -> str:
        """First user message of a ``conversation``: instructions and the first observation."""

    @abstractmethod
    def reply(self, observation: Observation) -> str:
        """A later user message of a ``conversation``."""

    @abstractmethod
    def window(
        self,
        task: Task,
        first: Observation,
        history: Sequence[tuple[str, Observation]],
        steps: int,
    ) -> str:
        """The one user message of a ``windowed`` turn.

        Args:
            task: the task.
            first: what ``reset`` returned.
            history: every (action, observation that answered it) so far.
            steps: the message shows the last ``steps`` actions (≥ 0) and the current observation.
        """


def between(text: str, tag: str) -> str | None:
    """The stripped text of the first ``<tag>…</tag>`` in ``text``, or None."""
    pair = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return pair.group(1).strip() if pair else None
