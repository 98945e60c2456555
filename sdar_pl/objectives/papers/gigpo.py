"""GiGPO, group-in-group policy optimisation (2505.10978): an episode's advantage plus a step's, from anchor states.

A *step* is a row of ``windowed`` history (one turn). Steps of one group that stood before the same observation share
an anchor: they differ only in what they did next, so their returns can be compared.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdar_pl.checks import at_least, between
from sdar_pl.errors import UserError
from sdar_pl.objectives.advantages import GroupAdvantage
from sdar_pl.objectives.functional import STD_EPSILON, Scale, Unit


class GiGPOAdvantage(GroupAdvantage):
    """A = A^episode + ω·A^step; A^step compares discounted returns among the rows of a group with one anchor.

    ``weight`` is ω (1 in the paper), ``gamma`` the discount (0.95). A step whose anchor nobody shares gets A^step = 0.
    ``scale`` std or none applies to both levels.
    """

    needs_anchors = True

    def __init__(self, weight: float = 1.0, gamma: float = 0.95, unit: Unit = "episode", scale: Scale = "std") -> None:
        super().__init__(unit, scale)
        self.weight = at_least("data.advantage.weight", weight, 0)
        self.gamma = between("data.advantage.gamma", gamma, 0, 1)

    def __call__(
        self,
        rewards: Tensor,
        groups: Tensor,
        episodes: Tensor,
        *,
        anchors: Tensor | None = None,
        step_rewards: Tensor | None = None,
    ) -> Tensor:
        """``anchors`` [N] number the observations before each row; rows of an episode stand in the order of turns.

        ``step_rewards`` [N] are the rewards of single turns; None puts the episode's reward on its last row.
        """
        if anchors is None:
            raise UserError(
                "data.advantage: GiGPO needs anchor states, one a row; use windowed history or GroupAdvantage"
            )
        result = super().__call__(rewards, groups, episodes)
        returns = self.returns(rewards, episodes, step_rewards)
        for group, anchor in set(zip(groups.tolist(), anchors.tolist(), strict=True)):
            rows = ((groups == group) & (anchors == anchor)).nonzero().flatten()
            if len(rows) > 1:
                centred = returns[rows] - returns[rows].mean()
                step = centred / (returns[rows].std() + STD_EPSILON) if self.scale == "std" else centred
                result[rows] += self.weight * step.to(result.dtype)
        return result

    def returns(self, rewards: Tensor, episodes: Tensor, step_rewards: Tensor | None) -> Tensor:
        """Discounted return from each row on, [N] in float64."""
        result = torch.zeros(len(rewards), dtype=torch.float64, device=rewards.device)
        for episode in set(episodes.tolist()):
            rows = (episodes == episode).nonzero().flatten().tolist()
            later = 0.0
            for row in reversed(rows):
                if step_rewards is not None:
                    now = float(step_rewards[row])
                else:
                    now = float(rewards[row]) if row == rows[-1] else 0.0
                later = now + self.gamma * later
                result[row] = later
        return result
