"""PathEfficiency: a bonus for successes that take fewer steps than their group (ToolCUA, 2605.12481)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sdar_pl.checks import at_least
from sdar_pl.rewards.base import GroupReward
from sdar_pl.types import Episode


class PathEfficiency(GroupReward):
    """ToolCUA's R_len (2605.12481): a success of s steps beside the group's mean s̄, failures included, has

        1 + (s̄ − s)/s̄  where s < s̄,  else  exp(−(s − s̄)/(S − s̄)),

    from 2 (no step) over 1 (as long as the mean) to e⁻¹ (S steps). A failure has 0, so that no short failure is
    preferred to a success.

    Args:
        weight: of this part in a RewardSum, ≥ 0; 0.2 in the paper, where a success has reward 1.
        max_steps: S, the turns after which an episode ends (``data.play.max_turns``), ≥ 1; 30 in the paper.
    """

    name = "path"

    def __init__(self, weight: float = 0.2, max_steps: int = 30) -> None:
        self.weight = at_least("data.rewards.weight", weight, 0)
        self.max_steps = at_least("data.rewards.max_steps", max_steps, 1)

    def shape(self, group: Sequence[Episode]) -> list[float]:
        steps = [len(episode.turns) for episode in group]
        mean = sum(steps) / len(steps)
        return [self.bonus(s, mean) if episode.success else 0.0 for s, episode in zip(steps, group, strict=True)]

    def bonus(self, steps: int, mean: float) -> float:
        """R_len of a success of ``steps`` in a group with this ``mean``."""
        if steps <= mean:
            return 1 + (mean - steps) / mean
        # Beyond S the formula has no value: the bonus is 0 there.
        return math.exp(-(steps - mean) / (self.max_steps - mean)) if mean < self.max_steps else 0.0
