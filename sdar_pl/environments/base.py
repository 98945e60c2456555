"""What an environment is: tasks, sessions, and the words in which a policy meets them.

Environments import no torch and no lightning. A session is single-use: ``reset`` once, ``step`` until
``done``, then ``close``. Everything here is plain text; tokens are prompts.py's business.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence

from sdar_pl.types import Observation, Task


class Session(ABC):
    """One play of one task."""

    @abstractmethod
    def reset(self) -> Observation:
        """Start the play; called exactly once."""

    @abstractmethod
    def step(self, action: str) -> Observation:
        """Take one action. An action that is not understood is answered, never raised."""

    def close(self) -> None:  # noqa: B027 - most sessions hold nothing
        """Give back what the session holds (a process, a socket)."""


class Environment(ABC):
    """A family of tasks and the wording in which they are put to a policy."""

    #: every ``Task.kind`` that can occur
    kinds: tuple[str, ...] = ()

    @abstractmethod
    def tasks(self, split: str) -> Sequence[Task]:
        """All tasks of a split in a stable order. Raises ``UserError`` for an unknown split."""

    @abstractmethod
    def session(self, task: Task) -> Session:
        """A fresh session; safe to call from several threads."""

    def expert_plan(self, task: Task) -> tuple[str, ...]:
        """The actions of a known solution, for a teacher to read; empty where none is known."""
        return ()

    @abstractmethod
    def parse(self, text: str) -> tuple[str, bool]:
        """Model output → (action, whether the output kept to the asked format)."""

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

        ``history`` is every (action, observation that answered it) so far; the message shows the last
        ``steps`` of them and the current observation.
        """


def between(text: str, tag: str) -> str | None:
    """The stripped text of the first ``<tag>…</tag>`` in ``text``, or None."""
    found = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return found.group(1).strip() if found else None
