"""Outcome: the environment's reward as a part of a sum."""

from __future__ import annotations

from collections.abc import Sequence

from sdar_pl.checks import at_least
from sdar_pl.rewards.base import GroupReward
from sdar_pl.types import Episode


class Outcome(GroupReward):
    """The environment's reward: ToolCUA's R_acc (2605.12481) where a success has reward 1.

    Args:
        weight: of this part in a RewardSum, ≥ 0.
    """

    name = "outcome"

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = at_least("data.rewards.weight", weight, 0)

    def shape(self, group: Sequence[Episode]) -> list[float]:
        return [episode.reward for episode in group]
