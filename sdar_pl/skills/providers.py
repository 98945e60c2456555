"""Privileged context: text about a task that the teacher reads and the student does not.

A provider returns one block of text for a task; prompts.py puts it into the teacher's prompt. Left out here: contexts
made of episodes or of known solutions (hindsight.py).
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
    """A source of privileged context.

    A provider whose context is made of finished episodes sets ``after_play`` and overrides ``after``. Such a context
    does not exist before play, so no student can be shown it.

    Example:
        ``SkillContext().provide(Task("t", "pick_heat_then_place_in_recep", "put a hot mug in shelf"))`` returns
        "Useful skills for this task:\\n\\ngeneral: …\\n\\nheat and place: …".
    """

    after_play: bool = False

    def bind(self, environment: Environment, group_size: int) -> None:  # noqa: B027 - most accept any
        """Receive the environment before the first task. Raises ``UserError`` if no context can be made for it."""

    @abstractmethod
    def provide(self, task: Task) -> str:
        """The privileged context before the task is played; empty for none."""

    def after(self, episode: Episode, group: Sequence[Episode]) -> str:
        """The privileged context after all episodes of the ``group`` (this one included) have ended.

        Only the teacher can read it, when it scores the finished episode. Default: the context from ``provide``.
        """
        return episode.context

    def given(self, task: Task) -> tuple[str, ...]:
        """Names of the parts (skills) in the task's last context: the argument ``given`` of ``update``."""
        return ()

    def update(self, task: Task, given: Sequence[str], success: bool) -> None:  # noqa: B027 - most do not learn
        """Learn from the outcome of one episode.

        Every rank receives the outcomes of all ranks' episodes, in the same order.

        Args:
            task: the episode's task, without its ``data``.
            given: what ``given(task)`` returned on the rank that played the task.
            success: whether the episode succeeded.
        """

    def state_dict(self) -> dict[str, Any]:
        """Everything learnt, as plain data for a checkpoint (numbers, texts, lists, dictionaries)."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - most have no state
        """Restore the state that ``state_dict`` returned."""


class NoContext(ContextProvider):
    """No privileged context: teacher and student read the same prompt."""

    def provide(self, task: Task) -> str:
        return ""


class SkillContext(ContextProvider):
    """Skills as privileged context.

    Args:
        library: a library of the package: "household", "synthetic_shop", "fiction" (short texts, for the tiny policies)
            or "alfworld", "webshop", "search_qa" (fuller texts, for models that were never trained on the task).
            Ignored where ``folder`` is set.
        folder: a folder of your own skills, one markdown file each (format: skills/library.py).
        retriever: chooses the skills for a task; null means ``ByKind``.

    Raises ``UserError`` for an unknown library and a bad folder.
    """

    def __init__(
        self, library: str = "household", folder: str | None = None, retriever: Retriever | None = None
    ) -> None:
        self.library = SkillLibrary.load(folder) if folder is not None else SkillLibrary.builtin(library)
        self.retriever = retriever or ByKind()
        self._given: dict[str, tuple[str, ...]] = {}  # task id → names of the skills in its last context

    def provide(self, task: Task) -> str:
        skills = self.retriever.retrieve(task, self.library)
        self._given[task.id] = tuple(skill.name for skill in skills)
        return render(skills)

    def given(self, task: Task) -> tuple[str, ...]:
        return self._given.get(task.id, ())

    def update(self, task: Task, given: Sequence[str], success: bool) -> None:
        by_name = {skill.name: skill for skill in self.library}
        self.retriever.update(task, [by_name[name] for name in given], success)

    def state_dict(self) -> dict[str, Any]:
        return self.retriever.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.retriever.load_state_dict(state)


def render(skills: Sequence[Skill]) -> str:
    """Skills as one block of text: a heading, then the name and text of each skill. Empty for no skills."""
    if not skills:
        return ""
    return "\n\n".join(["Useful skills for this task:", *(f"{skill.name}: {skill.text}" for skill in skills)])
