"""Policy losses: how an advantage becomes a gradient."""

from __future__ import annotations

from torch import Tensor

from sdar_pl.objectives.checks import within
from sdar_pl.objectives.functional import Aggregation, clipped_policy_terms
from sdar_pl.objectives.inputs import LossInputs


class PolicyLoss:
    """Base: ``loss(inputs)`` gives the terms [B, R] (with gradient) and where clipping acts [B, R] (0/1).

    ``aggregation`` is set where the method is only defined with one way of averaging.
    """

    aggregation: Aggregation | None = None

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class ClippedPolicyLoss(PolicyLoss):
    """PPO's clipped surrogate with dual clip (functional.clipped_policy_terms); ``clip_high`` > ``clip_low``: DAPO."""

    def __init__(self, clip_low: float = 0.2, clip_high: float = 0.2, dual_clip: float = 3.0) -> None:
        self.clip_low = within("clip_low", clip_low, 0.0, 1.0)
        self.clip_high = within("clip_high", clip_high)
        self.dual_clip = within("dual_clip", dual_clip, 1.0)

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, Tensor]:
        return clipped_policy_terms(
            inputs.student,
            inputs.behaviour,
            inputs.advantages,
            inputs.mask,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            dual_clip=self.dual_clip,
        )
