"""Privileged context: what the teacher may read of a task and the student may not.

A provider turns a task into one block of text; prompts.py puts it into the teacher's prompt. Left out here:
contexts made from episodes (a successful sibling, hindsight).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from sdar_pl.skills.library import SkillLibrary
from sdar_pl.skills.retrievers import ByKind, Retriever
from sdar_pl.types import Skill, Task


class ContextProvider(ABC):
    """Gives a task its privileged context."""

    @abstractmethod
    def provide(self, task: Task) -> str:
        """The privileged context in words; empty where there is none."""


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

    def provide(self, task: Task) -> str:
        return render(self.retriever.retrieve(task, self.library))


def render(skills: Sequence[Skill]) -> str:
    """Skills as one block of text: a heading, then each one's name and text. Empty for no skills."""
    if not skills:
        return ""
    return "\n\n".join(["Useful skills for this task:", *(f"{skill.name}: {skill.text}" for skill in skills)])
