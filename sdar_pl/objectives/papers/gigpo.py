"""GiGPO, group-in-group policy optimisation (2505.10978): the episode's advantage plus one of each step.

A *step* is a row of ``windowed`` history (one turn). The *anchor* of a step is the observation before it. Steps of one
group with the same anchor differ only in the action that follows, so their returns are comparable.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdar_pl.checks import at_least, between
from sdar_pl.errors import UserError
from sdar_pl.objectives.advantages import GroupAdvantage
from sdar_pl.objectives.group_statistics import Scale, Unit, standardise


class GiGPOAdvantage(GroupAdvantage):
    """GiGPO's advantage A^episode + ω·A^step; A^step compares discounted returns among a group's rows with one anchor.

    A step without another of the same anchor has A^step = 0. The penalty of an invalid step lowers this step's return
    and no earlier one's, as in the authors' code; A^episode has it as any advantage has (objectives/advantages.py).

    Args:
        weight: ω ≥ 0, 1 in the paper.
        gamma: discount per turn, 0 to 1; 0.95 in the paper.
        unit: what the statistics of A^episode count once: episode or row.
        scale: std divides both levels by the deviation, none does not; leave-one-out is for A^episode only.
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
        step_penalties: Tensor | None = None,
    ) -> Tensor:
        """Advantages [N]. ``anchors`` [N] number the observations; rows of an episode stand in the order of turns.

        ``step_rewards`` [N] are the rewards of single turns; None puts the episode's reward on its last row.
        ``step_penalties`` [N] are the penalties of invalid turns; None: no turn is invalid.
        Raises UserError without ``anchors``.
        """
        if anchors is None:
            raise UserError("data.advantage: GiGPO needs one anchor a row; set data.prompter.history to windowed")
        result = super().__call__(rewards, groups, episodes)
        returns = self.returns(rewards, episodes, step_rewards)
        if step_penalties is not None:
            returns -= step_penalties
        for group, anchor in set(zip(groups.tolist(), anchors.tolist(), strict=True)):
            rows = ((groups == group) & (anchors == anchor)).nonzero().flatten()
            if len(rows) > 1:
                step = standardise(returns[rows], returns[rows], scale=self.scale)
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
