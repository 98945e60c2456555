"""Privileged context from experience: a sibling's success, hindsight, a reference solution. No skill has to be written.

``SiblingEpisode`` and ``Hindsight`` know what happened after the tokens that the teacher scores. That is their purpose:
the teacher judges a finished episode with knowledge of its end. It can go nowhere else – the text exists only once the
whole group has been played, is put into teacher prompts alone, and names no other task.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from sdar_pl.environments.base import Environment
from sdar_pl.errors import UserError
from sdar_pl.skills.providers import ContextProvider
from sdar_pl.types import Episode, Task


class _AfterPlay(ContextProvider):
    """Knows nothing before the episodes have ended."""

    after_play = True

    def provide(self, task: Task) -> str:
        return ""


class SiblingEpisode(_AfterPlay):
    """What a successful episode of the same group did; no context where no *other* episode of the group succeeded.

    Of several the shortest is told (of these the first). ``observations`` tells the answers to its actions, too, which
    takes far more tokens. Raises ``UserError`` for groups of one.
    """

    def __init__(self, observations: bool = False) -> None:
        self.observations = observations

    def bind(self, environment: Environment, group_size: int) -> None:
        if group_size < 2:
            raise UserError("data.context: an episode in a group of one has no sibling; raise data.group_size")

    def after(self, episode: Episode, group: Sequence[Episode]) -> str:
        siblings = [other for other in group if other is not episode and other.success]
        if not siblings:
            return ""
        best = min(siblings, key=lambda other: len(other.turns))
        told = [turn.action + (f"\n{turn.observation.text}" if self.observations else "") for turn in best.turns]
        return f"Another attempt at this task succeeded. What it did:\n{numbered(told)}"


class Hindsight(_AfterPlay):
    """How the episode itself ended, and the environment's feedback on its turns.

    ``feedback`` "all" turns, the "last" one or "none". ``actions`` tells the episode's actions beside the feedback; by
    default it does not, for a teacher that reads what was done tends to repeat it, right or wrong.
    """

    def __init__(self, feedback: Literal["all", "last", "none"] = "all", actions: bool = False) -> None:
        self.feedback, self.actions = feedback, actions

    def after(self, episode: Episode, group: Sequence[Episode]) -> str:
        number = len(episode.turns)
        outcome = "succeeds" if episode.success else "does not succeed"
        text = f"Hindsight: this attempt {outcome}; it ends after {number} {'turn' if number == 1 else 'turns'}."
        first = {"all": 0, "last": number - 1, "none": number}[self.feedback]
        told = [(f"{turn.action}\n" if self.actions else "") + turn.observation.text for turn in episode.turns[first:]]
        return f"{text} Feedback on its turns:\n{numbered(told, first + 1)}" if told else text


class ReferenceSolution(ContextProvider):
    """The actions of a known solution of the task, such as the expert's plan (``Environment.expert_plan``).

    Known before play, so the student can be shown it, too. Raises ``UserError`` for an environment that knows none.
    """

    def __init__(self) -> None:
        self.environment: Environment | None = None

    def bind(self, environment: Environment, group_size: int) -> None:
        if type(environment).expert_plan is Environment.expert_plan:
            raise UserError(
                f"data.context: {type(environment).__name__} knows no reference solutions; use another context, such "
                "as sdar_pl.skills.hindsight.SiblingEpisode"
            )
        self.environment = environment

    def provide(self, task: Task) -> str:
        assert self.environment is not None, "bind() comes first"
        plan = self.environment.expert_plan(task)
        return f"A solution of this task:\n{numbered(plan)}" if plan else ""


def numbered(lines: Iterable[str], first: int = 1) -> str:
    """A numbered list, one item a line."""
    return "\n".join(f"{number}. {line.strip()}" for number, line in enumerate(lines, first))
