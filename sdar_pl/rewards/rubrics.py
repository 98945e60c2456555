"""Rubrics: what makes a stage of an episode good, as a checkable rule or as a sentence for a judge.

A score is 0 (not met), 1 (in part) or 2 (met), as in RubricEM (2605.10899).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from sdar_pl.checks import between, expression
from sdar_pl.environments.base import Environment
from sdar_pl.errors import UserError
from sdar_pl.types import Episode, Task, Turn


class Rule(ABC):
    """A checkable rule: ``score(episode, turns)`` for the turns of one stage, of which there is at least one."""

    def bind(self, environment: Environment) -> None:  # noqa: B027 - most accept any
        """Receive the environment before the first task. Raises ``UserError`` if the rule is not defined there."""

    @abstractmethod
    def score(self, episode: Episode, turns: Sequence[Turn]) -> int:
        """0 (not met), 1 (in part) or 2 (met)."""


@dataclass
class Rubric:
    """One rubric of a stage.

    Args:
        stage: name of the stage.
        rule: the rule that scores it; null: the judge does.
        text: what a good stage does, in words, for the judge.
        weight: in the weighted mean of the stage's rubrics, > 0; 1 to 3 in the paper.
        negative: the rubric describes a fault: its score s counts as 2 − s.
    """

    stage: str
    rule: Rule | None = None
    text: str = ""
    weight: float = 1.0
    negative: bool = False

    def __post_init__(self) -> None:
        between("data.rewards.rubrics.weight", self.weight, 0, 100, ends="(]")
        if self.rule is None and not self.text.strip():
            raise UserError(f"data.rewards.rubrics: one of stage {self.stage!r} has neither rule nor text; give one")


class Succeeds(Rule):
    """Met where the task is fulfilled."""

    def score(self, episode: Episode, turns: Sequence[Turn]) -> int:
        return 2 * episode.success


class KeepsFormat(Rule):
    """Met where every turn of the stage kept the format; in part where some did."""

    def score(self, episode: Episode, turns: Sequence[Turn]) -> int:
        kept = [turn.valid for turn in turns]
        return 2 if all(kept) else int(any(kept))


class RepeatsNothing(Rule):
    """Met where no action of the stage occurs twice in the episode; in part where one does, once more."""

    def score(self, episode: Episode, turns: Sequence[Turn]) -> int:
        counts = Counter(turn.action.lower() for turn in episode.turns)
        repeated = sum(counts[action] - 1 for action in {turn.action.lower() for turn in turns})
        return max(0, 2 - repeated)


class Mentions(Rule):
    """Met where a response of the stage matches an expression.

    Args:
        pattern: regular expression, searched for in the responses of the stage, in any case.

    Raises ``UserError`` for an expression that is none.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self._pattern = expression("data.rewards.rubrics.rule.pattern", pattern, re.IGNORECASE | re.DOTALL)

    def score(self, episode: Episode, turns: Sequence[Turn]) -> int:
        return 2 * any(self._pattern.search(turn.text) for turn in turns)


@runtime_checkable
class KnowsEvidence(Protocol):
    """An environment that knows what an answer rests on."""

    def evidence_recall(self, task: Task, found: str) -> float:
        """The share (0 to 1) of the task's evidence that the observations ``found`` hold."""


class FindsEvidence(Rule):
    """Met where the observations of the stage hold all evidence of the task; in part where they hold half.

    The environment knows the evidence (SearchQA: ``evidence_recall``). Raises ``UserError`` for one that does not.
    """

    def bind(self, environment: Environment) -> None:
        if not isinstance(environment, KnowsEvidence):
            raise UserError(
                f"data.rewards.rubrics.rule: FindsEvidence needs an environment with evidence_recall, and "
                f"{type(environment).__name__} has none; use another rule"
            )
        self._environment: KnowsEvidence = environment

    def score(self, episode: Episode, turns: Sequence[Turn]) -> int:
        found = "\n".join(turn.observation.text for turn in turns)
        return int(2 * self._environment.evidence_recall(episode.task, found))
