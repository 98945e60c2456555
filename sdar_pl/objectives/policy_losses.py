"""Policy losses: from advantages to a gradient."""

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

KEY = "model.objective.policy_loss"


class PolicyLoss:
    """Base class: ``loss(inputs)`` returns the terms [B, R], with gradient, and where the clip acts [B, R] (0 or 1).

    ``aggregation`` is set where the method is defined with one aggregation only.
    """

    aggregation: Aggregation | None = None

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class ClippedPolicyLoss(PolicyLoss):
    """PPO's clipped surrogate (1707.06347) with dual clip (1912.09729); ``clip_high`` > ``clip_low`` is DAPO's.

    Args:
        clip_low: the ratio ρ is clipped at 1 − ``clip_low``, 0 to 1.
        clip_high: the ratio ρ is clipped at 1 + ``clip_high``, ≥ 0.
        dual_clip: where A < 0 the loss is at most −A·``dual_clip``, ≥ 1; null: no limit.
    """

    def __init__(self, clip_low: float = 0.2, clip_high: float = 0.2, dual_clip: float | None = 3.0) -> None:
        self.clip_low = between(f"{KEY}.clip_low", clip_low, 0, 1)
        self.clip_high = at_least(f"{KEY}.clip_high", clip_high, 0)
        self.dual_clip = at_least(f"{KEY}.dual_clip", dual_clip, 1)

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
    """GSPO's clipped surrogate (2507.18071): one ratio a row, the geometric mean of its tokens' ratios.

    Defined as a mean over rows of token means. A row is a turn (windowed history) or an episode (conversation).

    Args:
        clip_low: the ratio is clipped at 1 − ``clip_low``, 0 to 1. 3e-4 in the paper.
        clip_high: the ratio is clipped at 1 + ``clip_high``, ≥ 0. 4e-4 in the paper.
    """

    aggregation = "seq-mean-token-mean"

    def __init__(self, clip_low: float = 3e-4, clip_high: float = 4e-4) -> None:
        self.clip_low = between(f"{KEY}.clip_low", clip_low, 0, 1)
        self.clip_high = at_least(f"{KEY}.clip_high", clip_high, 0)

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
    """CISPO's weighted likelihood −sg(clip(ρ, 1 − low, 1 + high))·A·log π_θ (MiniMax-M1, 2506.13585, eq. 4).

    The clipped ratio is a weight and not a mask: every token keeps a gradient.

    Args:
        clip_low: the ratio ρ is clipped at 1 − ``clip_low``, 0 to 1; 1, as in the paper, means no lower bound.
        clip_high: the ratio ρ is clipped at 1 + ``clip_high``, ≥ 0. The paper gives no value; 4 is ScaleRL's
            upper bound of 5 (2510.13786).
    """

    def __init__(self, clip_low: float = 1.0, clip_high: float = 4.0) -> None:
        self.clip_low = between(f"{KEY}.clip_low", clip_low, 0, 1)
        self.clip_high = at_least(f"{KEY}.clip_high", clip_high, 0)

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, Tensor]:
        ratio = log_ratio(inputs.student_logprobs.detach(), inputs.behaviour, inputs.mask).exp()
        clipped = ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        advantages = per_token(inputs.advantages, inputs.mask)
        terms = -clipped * advantages * fill_masked(inputs.student_logprobs, inputs.mask)
        return terms, torch.ne(clipped, ratio).to(terms.dtype)
