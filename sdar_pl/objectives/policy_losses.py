"""Policy losses: how an advantage becomes a gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from sdar_pl.checks import at_least, between
from sdar_pl.objectives.functional import (
    Aggregation,
    clipped_policy_terms,
    fill_masked,
    gspo_terms,
    log_ratio,
    per_token,
)
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

    def __init__(self, clip_low: float = 0.2, clip_high: float = 0.2, dual_clip: float | None = 3.0) -> None:
        self.clip_low = between("model.objective.policy_loss.clip_low", clip_low, 0, 1)
        self.clip_high = at_least("model.objective.policy_loss.clip_high", clip_high, 0)
        self.dual_clip = at_least("model.objective.policy_loss.dual_clip", dual_clip, 1)

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, Tensor]:
        return clipped_policy_terms(
            inputs.student_logprobs,
            inputs.behaviour,
            inputs.advantages,
            inputs.mask,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            dual_clip=self.dual_clip,
        )


class GSPOLoss(PolicyLoss):
    """GSPO (2507.18071): one ratio a row, the geometric mean over its tokens; clipped where it leaves a narrow band.

    Defined as a mean over rows of token means. The defaults are the paper's; a row is a turn or an episode.
    """

    aggregation = "seq-mean-token-mean"

    def __init__(self, clip_low: float = 3e-4, clip_high: float = 4e-4) -> None:
        self.clip_low = between("model.objective.policy_loss.clip_low", clip_low, 0, 1)
        self.clip_high = at_least("model.objective.policy_loss.clip_high", clip_high, 0)

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, Tensor]:
        return gspo_terms(
            inputs.student_logprobs,
            inputs.behaviour,
            inputs.advantages,
            inputs.mask,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
        )


class CISPOLoss(PolicyLoss):
    """CISPO (MiniMax-M1, 2506.13585, eq. 4): −sg(clip(ρ, 1 − low, 1 + high))·A·log π_θ.

    The clipped ratio is a weight and not a mask, so that no token ever loses its gradient. The paper sets no lower
    bound (``clip_low`` 1) and does not name the upper one; 4 (ρ ≤ 5) is our choice.
    """

    def __init__(self, clip_low: float = 1.0, clip_high: float = 4.0) -> None:
        self.clip_low = between("model.objective.policy_loss.clip_low", clip_low, 0, 1)
        self.clip_high = at_least("model.objective.policy_loss.clip_high", clip_high, 0)

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, Tensor]:
        ratio = log_ratio(inputs.student_logprobs.detach(), inputs.behaviour, inputs.mask).exp()
        clipped = ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        advantages = per_token(inputs.advantages, inputs.mask)
        terms = -clipped * advantages * fill_masked(inputs.student_logprobs, inputs.mask)
        return terms, torch.ne(clipped, ratio).to(terms.dtype)
