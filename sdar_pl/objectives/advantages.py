"""Advantages: from the rewards of an iteration's rows to one number a row, [N] → [N]."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sdar_pl.checks import one_of
from sdar_pl.errors import UserError
from sdar_pl.objectives.functional import STD_EPSILON, Scale, Unit, group_advantages


class Advantage:
    """Base: ``advantage(rewards, groups, episodes)``, all [N], gives the rows' advantages [N].

    The rows are those of this rank, which has whole groups; with ``whole_batch`` those of all ranks.
    ``needs_anchors``: it also wants ``anchors`` and ``step_rewards`` [N] by name (gigpo.py), from windowed history.
    """

    needs_anchors: bool = False
    whole_batch: bool = False

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
            raise UserError(f"data.group_size: {group_size} leaves nothing to compare an episode with; give at least 2")


class BatchAdvantage(Advantage):
    """REINFORCE++ (2501.03262): rewards standardised over the whole batch and not within a group.

    ``baseline`` group first takes off the group's mean ("REINFORCE++ with baseline", for groups of several episodes);
    none is the original for one episode a task. Each episode counts once (``unit`` episode) or each row. The batch is
    what all ranks rolled out.
    """

    whole_batch = True

    def __init__(self, baseline: Literal["group", "none"] = "group", unit: Unit = "episode") -> None:
        self.baseline = one_of("data.advantage.baseline", baseline, ("group", "none"))
        self.unit: Unit = unit

    def __call__(self, rewards: Tensor, groups: Tensor, episodes: Tensor) -> Tensor:
        values = rewards.double()
        if self.baseline == "group":
            values = group_advantages(values, groups, episodes, unit=self.unit, scale="none")
        samples = values
        if self.unit == "episode":
            numbers = episodes.tolist()
            samples = values[[numbers.index(number) for number in dict.fromkeys(numbers)]]
        deviation = samples.std() if len(samples) > 1 else torch.ones(())
        return ((values - samples.mean()) / (deviation + STD_EPSILON)).to(rewards.dtype)

    def validate(self, group_size: int) -> None:
        if self.baseline == "group" and group_size < 2:
            raise UserError(
                f"data.group_size: {group_size} leaves no baseline; give at least 2 or set baseline to none"
            )
