"""Privileged context: what the teacher may read of a task and the student may not.

A provider turns a task into one block of text; prompts.py puts it into the teacher's prompt. Left out here:
contexts made of episodes and of known solutions (hindsight.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from sdar_pl.environments.base import Environment
from sdar_pl.skills.library import SkillLibrary
from sdar_pl.skills.retrievers import ByKind, Retriever
from sdar_pl.types import Episode, Skill, Task


class ContextProvider(ABC):
    """Gives a task its privileged context.

    ``after_play`` says that the context is made of finished episodes (``after``): there is nothing yet to show to a
    student that plays.
    """

    after_play: bool = False

    def bind(self, environment: Environment, group_size: int) -> None:  # noqa: B027 - most take any
        """Meet the environment. Raises ``UserError`` where there is nothing that the context could be made of."""

    @abstractmethod
    def provide(self, task: Task) -> str:
        """The privileged context in words, before the task is played; empty where there is none."""

    def after(self, episode: Episode, group: Sequence[Episode]) -> str:
        """The privileged context once all of the episode's ``group`` (itself included) have ended: only the teacher,
        who scores a finished episode, can read it. By default what was provided before."""
        return episode.context

    def given(self, task: Task) -> tuple[str, ...]:
        """Names of what the task was given last: what ``update`` must know on ranks that did not play the task."""
        return ()

    def update(self, task: Task, given: Sequence[str], success: bool) -> None:  # noqa: B027 - most do not learn
        """Hear how one episode ended whose task was ``given`` these. Every rank hears of all, in the same order."""

    def state_dict(self) -> dict[str, Any]:
        """What has been learnt, as plain data for a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - most have no state
        """Take back what ``state_dict`` gave."""


class NoContext(ContextProvider):
    """No privileged context: the teacher reads what the student reads."""

    def provide(self, task: Task) -> str:
        return ""


class SkillContext(ContextProvider):
    """Skills as privileged context.

    ``folder``: your own skills (library.py says how they look); without it the package's ``library``:
    "household" (short, for the tiny policy) or "alfworld" (fuller, for models that never saw the game).
    ``retriever`` None: ``ByKind``. Raises ``UserError`` as ``SkillLibrary.load`` does.
    """

    def __init__(
        self, library: str = "household", folder: str | None = None, retriever: Retriever | None = None
    ) -> None:
        self.library = SkillLibrary.load(folder) if folder else SkillLibrary.builtin(library)
        self.retriever = retriever or ByKind()
        self._given: dict[str, tuple[str, ...]] = {}  # task id → names of the skills that it was given last

    def provide(self, task: Task) -> str:
        skills = self.retriever.retrieve(task, self.library)
        self._given[task.id] = tuple(skill.name for skill in skills)
        return render(skills)

    def given(self, task: Task) -> tuple[str, ...]:
        return self._given.get(task.id, ())

    def update(self, task: Task, given: Sequence[str], success: bool) -> None:
        known = {skill.name: skill for skill in self.library}
        self.retriever.update(task, [known[name] for name in given], success)

    def state_dict(self) -> dict[str, Any]:
        return self.retriever.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.retriever.load_state_dict(state)


def render(skills: Sequence[Skill]) -> str:
    """Skills as one block of text: a heading, then each one's name and text. Empty for no skills."""
    if not skills:
        return ""
    return "\n\n".join(["Useful skills for this task:", *(f"{skill.name}: {skill.text}" for skill in skills)])
