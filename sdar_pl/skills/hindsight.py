"""Privileged context from experience: a sibling's success, hindsight, a reference solution. Nobody has to write skills.

``SiblingEpisode`` and ``Hindsight`` contain what happened after the tokens that the teacher scores. This is on purpose:
the teacher judges a finished episode with knowledge of its end. Nothing leaks: the text exists only after the whole
group has been played, it enters teacher prompts only, and it is about one task.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from sdar_pl.environments.base import Environment
from sdar_pl.errors import UserError
from sdar_pl.skills.providers import ContextProvider
from sdar_pl.types import Episode, Task


class _AfterPlay(ContextProvider):
    """A provider without context before play."""

    after_play = True

    def provide(self, task: Task) -> str:
        return ""


class SiblingEpisode(_AfterPlay):
    """The actions of a successful sibling: another episode of the same group.

    The context is empty where no *other* episode succeeded. Of several the one with the fewest turns is used; of these
    the first.

    Args:
        observations: add the observation after each action; this takes far more tokens.

    Raises ``UserError`` for groups of one.
    """

    def __init__(self, observations: bool = False) -> None:
        self.observations = observations

    def bind(self, environment: Environment, group_size: int) -> None:
        if group_size < 2:
            raise UserError("data.context: SiblingEpisode needs groups of two or more; raise data.group_size")

    def after(self, episode: Episode, group: Sequence[Episode]) -> str:
        siblings = [other for other in group if other is not episode and other.success]
        if not siblings:
            return ""
        best = min(siblings, key=lambda other: len(other.turns))
        lines = [turn.action + (f"\n{turn.observation.text}" if self.observations else "") for turn in best.turns]
        return f"Another attempt at this task succeeded. What it did:\n{numbered(lines)}"


class Hindsight(_AfterPlay):
    """The outcome of the episode itself, and the environment's feedback on its turns.

    Args:
        feedback: on "all" turns, the "last" one or "none".
        actions: add the episode's own action before each feedback. A teacher that reads the actions tends to repeat
            them, right or wrong.
    """

    def __init__(self, feedback: Literal["all", "last", "none"] = "all", actions: bool = False) -> None:
        self.feedback, self.actions = feedback, actions

    def after(self, episode: Episode, group: Sequence[Episode]) -> str:
        number = len(episode.turns)
        outcome = "succeeds" if episode.success else "does not succeed"
        text = f"Hindsight: this attempt {outcome}; it ends after {number} {'turn' if number == 1 else 'turns'}."
        first = {"all": 0, "last": number - 1, "none": number}[self.feedback]
        lines = [(f"{turn.action}\n" if self.actions else "") + turn.observation.text for turn in episode.turns[first:]]
        return f"{text} Feedback on its turns:\n{numbered(lines, first + 1)}" if lines else text


class ReferenceSolution(ContextProvider):
    """The actions of a known solution of the task (``Environment.expert_plan``).

    It exists before play, so a student can be shown it, too. Raises ``UserError`` for an environment without
    ``expert_plan``.
    """

    def __init__(self) -> None:
        self.environment: Environment | None = None

    def bind(self, environment: Environment, group_size: int) -> None:
        if not environment.knows_solutions:
            raise UserError(
                f"data.context: {type(environment).__name__} has no reference solutions (expert_plan); use another "
                "context, such as sdar_pl.skills.hindsight.SiblingEpisode"
            )
        self.environment = environment

    def provide(self, task: Task) -> str:
        assert self.environment is not None, "bind() must be called first"
        plan = self.environment.expert_plan(task)
        return f"A solution of this task:\n{numbered(plan)}" if plan else ""


def numbered(lines: Iterable[str], first: int = 1) -> str:
    """A numbered list from ``first`` on, one item per line."""
    return "\n".join(f"{number}. {line.strip()}" for number, line in enumerate(lines, first))
