"""RewardSum: a reward of several parts, normalised apart or not."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

from sdar_pl.environments.base import Environment
from sdar_pl.errors import UserError
from sdar_pl.rewards.base import GroupReward
from sdar_pl.types import Episode

STD_EPSILON = 1e-6


class RewardSum(GroupReward):
    """The weighted sum of several rewards; ``Episode.parts`` holds each part before its weight.

    With ``normalise`` each part is standardised within the group before it is weighted (GDPO, 2601.05242): parts of
    other ranges then count alike, and two episodes that differ in one part alone stay apart. GDPO standardises the sum
    over the batch afterwards: that is ``sdar_pl.objectives.BatchAdvantage`` with baseline none.

    Args:
        parts: the rewards to add, each once.
        normalise: subtract each part's mean over the group, and divide by its deviation.

    Raises ``UserError`` without parts and for a part that stands twice.
    """

    name = "sum"

    def __init__(self, parts: list[GroupReward], normalise: bool = False) -> None:
        names = [part.name for part in parts]
        if not parts or len(set(names)) < len(names):
            raise UserError(f"data.rewards.parts: {', '.join(names) or 'none'}; must be one or more, each once")
        self.parts, self.normalise = parts, normalise

    def bind(self, environment: Environment) -> None:
        for part in self.parts:
            part.bind(environment)

    def shape(self, group: Sequence[Episode]) -> list[float]:
        columns = {part.name: part.shape(group) for part in self.parts}
        for number, episode in enumerate(group):
            episode.parts = {name: values[number] for name, values in columns.items()}
        scaled = [standardised(values) if self.normalise else values for values in columns.values()]
        weights = [part.weight for part in self.parts]
        return [sum(w * v for w, v in zip(weights, values, strict=True)) for values in zip(*scaled, strict=True)]


def standardised(values: Sequence[float]) -> list[float]:
    """``values`` less their mean, divided by their sample deviation + 1e-6; equal values are exactly 0."""
    if len(set(values)) < 2:
        return [0.0] * len(values)
    mean, deviation = fmean(values), stdev(values)
    return [(value - mean) / (deviation + STD_EPSILON) for value in values]
