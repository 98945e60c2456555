"""Advantages: from the rewards of an iteration's rows to one number a row, [N] → [N]."""

from __future__ import annotations

from torch import Tensor

from sdar_pl.errors import UserError
from sdar_pl.objectives.functional import Scale, Unit, group_advantages


class Advantage:
    """Base: ``advantage(rewards, groups, episodes)``, all [N], gives the rows' advantages [N]."""

    def __call__(self, rewards: Tensor, groups: Tensor, episodes: Tensor) -> Tensor:
        raise NotImplementedError

    def validate(self, group_size: int) -> None:
        """Raises UserError where groups of ``group_size`` episodes make no sense."""


class GroupAdvantage(Advantage):
    """A row's reward against its group (functional.group_advantages).

    ``unit`` episode or row; ``scale`` std (GRPO), none (Dr. GRPO) or leave-one-out (RLOO).
    """

    def __init__(self, unit: Unit = "episode", scale: Scale = "std") -> None:
        self.unit: Unit = unit
        self.scale: Scale = scale

    def __call__(self, rewards: Tensor, groups: Tensor, episodes: Tensor) -> Tensor:
        return group_advantages(rewards, groups, episodes, unit=self.unit, scale=self.scale)

    def validate(self, group_size: int) -> None:
        if group_size < 2:
            raise UserError(f"group_size: {group_size} leaves nothing to compare an episode with; give at least 2")
