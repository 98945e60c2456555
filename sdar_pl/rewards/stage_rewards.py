"""StageRewards: an episode in stages, and a reward for each by rubrics (RubricEM, 2605.10899)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from sdar_pl.checks import expression
from sdar_pl.environments.base import Environment
from sdar_pl.errors import UserError
from sdar_pl.rewards.base import GroupReward
from sdar_pl.rewards.judge import Judge
from sdar_pl.rewards.rubrics import Rubric
from sdar_pl.types import Episode, Turn


@runtime_checkable
class HasStages(Protocol):
    """An environment whose episodes have stages."""

    #: names, in order
    stages: tuple[str, ...]

    def stage_of(self, turn: Turn) -> int:
        """Number of a turn's stage."""


class StageRewards(GroupReward):
    """Rewards of an episode's stages: R_k = Σ w·s / (2 Σ w) over the rubrics of stage k, scores s in 0, 1, 2.

    ``Episode.parts`` holds R_k by the stage's name, ``Turn.stage`` the stage of each turn; ``shape`` returns the last
    stage's R_K, which an advantage without stages compares. A stage without a turn has R_k = 0. Where the judge gives
    no scores for an episode, its whole group has the outcome alone: R_K = 1 for a success, all else 0.

    Args:
        rubrics: of all stages.
        patterns: name of each stage, in order, with a regular expression that a response of this stage matches, such
            as ``{search: "<search>", answer: "<answer>"}``. The first match counts; a response without one belongs to
            the stage of the turn before. Null: the environment's own stages (``stages`` and ``stage_of``).
        judge: scores the rubrics that have no rule; null: each has one.

    Raises ``UserError`` for a rubric of an unknown stage, a stage without rubrics, an expression that is none, and a
    rubric without a rule where there is no judge.
    """

    name = "stages"

    def __init__(
        self, rubrics: list[Rubric], patterns: Mapping[str, str] | None = None, judge: Judge | None = None
    ) -> None:
        self.rubrics, self.judge = rubrics, judge
        self.patterns = None if patterns is None else tuple(patterns.items())
        self._stage_of: Callable[[Turn], int | None] = lambda turn: None
        if self.patterns is not None:
            self._divide(tuple(name for name, _ in self.patterns), _matcher([p for _, p in self.patterns]))
        if judge is None and any(rubric.rule is None for rubric in rubrics):
            raise UserError("data.rewards.judge: null, but a rubric has no rule; give it one, or set a judge")

    def bind(self, environment: Environment) -> None:
        if self.patterns is None:
            if not isinstance(environment, HasStages):
                raise UserError(
                    f"data.rewards.patterns: null, but {type(environment).__name__} has no stages of its own; name "
                    "each stage with an expression"
                )
            self._divide(environment.stages, environment.stage_of)
        for rubric in self.rubrics:
            if rubric.rule is not None:
                rubric.rule.bind(environment)

    def _divide(self, stages: tuple[str, ...], stage_of: Callable[[Turn], int | None]) -> None:
        named = {rubric.stage for rubric in self.rubrics}
        if named != set(stages):
            raise UserError(
                f"data.rewards.rubrics: are of the stages {', '.join(sorted(named)) or 'none'}; must be of each of "
                f"{', '.join(stages)}"
            )
        self.stages, self._stage_of = stages, stage_of

    def shape(self, group: Sequence[Episode]) -> list[float]:
        for episode in group:
            stage = 0
            for turn in episode.turns:
                turn.stage = stage = stage if (own := self._stage_of(turn)) is None else own
        asked = [r for stage in self.stages for r in self.rubrics if r.stage == stage and r.rule is None]
        verdicts: list[list[int] | None] = [[] for _ in group]
        if self.judge is not None and asked:
            verdicts = self.judge.scores(group, self.stages, asked)
        judged = [verdict for verdict in verdicts if verdict is not None]
        for number, episode in enumerate(group):
            if len(judged) == len(group):
                episode.parts = self.rewards_of(episode, judged[number])
            else:
                episode.parts = dict.fromkeys(self.stages, 0.0) | {self.stages[-1]: float(episode.success)}
        return [episode.parts[self.stages[-1]] for episode in group]

    def rewards_of(self, episode: Episode, verdict: Sequence[int]) -> dict[str, float]:
        """R_k by the stage's name. ``verdict``: the judge's scores of the rubrics without a rule, stage by stage."""
        scores, rewards = iter(verdict), dict[str, float]()
        for number, stage in enumerate(self.stages):
            turns = [turn for turn in episode.turns if turn.stage == number]
            rubrics = [rubric for rubric in self.rubrics if rubric.stage == stage]
            reached = sum(rubric.weight * self._score(rubric, episode, turns, scores) for rubric in rubrics)
            rewards[stage] = reached / (2 * sum(rubric.weight for rubric in rubrics)) if turns else 0.0
        return rewards

    def _score(self, rubric: Rubric, episode: Episode, turns: Sequence[Turn], verdict: Iterator[int]) -> int:
        """A rubric's score, inverted where it describes a fault."""
        by_rule = rubric.rule.score(episode, turns) if rubric.rule is not None and turns else 0
        score = next(verdict) if rubric.rule is None else by_rule
        return 2 - score if rubric.negative else score


def _matcher(patterns: Sequence[str]) -> Callable[[Turn], int | None]:
    """The number of the first expression that a turn's text matches; None for none. Raises ``UserError``."""
    compiled = [expression("data.rewards.patterns", pattern, re.IGNORECASE) for pattern in patterns]
    return lambda turn: next((k for k, pattern in enumerate(compiled) if pattern.search(turn.text)), None)
