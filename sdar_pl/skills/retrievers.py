"""Which skills go with a task. A retriever reads the task's explicit kind or its goal, never a prompt.

Left out: embeddings (BM25 serves short goals), and learning what to write into a skill.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from sdar_pl.skills.library import SkillLibrary
from sdar_pl.types import Skill, Task


class Retriever(ABC):
    """Chooses skills from a library."""

    @abstractmethod
    def retrieve(self, task: Task, library: SkillLibrary) -> list[Skill]:
        """The skills for this task, best or most general first; may be empty."""


class ByKind(Retriever):
    """The general skills and those of the task's kind."""

    def retrieve(self, task: Task, library: SkillLibrary) -> list[Skill]:
        return library.for_task(task)
