"""Corrections of the mismatch between the engine that sampled and the trainer: token weights from w = π_old / q.

π_old is the trainer's probability of a sampled token under the weights that rolled out, q the engine's. A mean over
tokens of q of w·f is a mean over tokens of π_old of f, for any f: the policy loss and the distillation, whose terms
stand on the student's own tokens, take the same weights. The alternatives trade bias for variance. w is detached.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from torch import Tensor

from sdar_pl.checks import at_least, positive
from sdar_pl.errors import UserError
from sdar_pl.objectives.inputs import LossInputs


class Correction(ABC):
    """Base of the corrections. Raises UserError for numbers out of range."""

    #: number of the engine's likeliest tokens that it reads at each position
    likely: int = 0

    @abstractmethod
    def __call__(self, log_ratio: Tensor, mask: Tensor) -> Tensor:
        """Token weights [B, R] from log w = log π_old − log q [B, R] and the mask [B, R] of 0 and 1."""

    def centre(self, student_top: Tensor, likely: Tensor) -> Tensor | None:
        """c, where a token's policy loss gains A·c: [B, R] with gradient, or None.

        Args:
            student_top: [B, R, k + 1], the student's log-probs of the k likeliest tokens, and of all others together.
            likely: [B, R, k, 2], these tokens' numbers and the engine's log-probs.
        """
        return None

    def clipped(self, log_ratio: Tensor, weights: Tensor) -> Tensor:
        """Tokens [B, R] whose weight is not w: 0 or 1."""
        return ((weights - log_ratio.exp()).abs() > 1e-6).to(log_ratio.dtype)


class NoCorrection(Correction):
    """Every token weighs 1, whatever the engine."""

    def __call__(self, log_ratio: Tensor, mask: Tensor) -> Tensor:
        return torch.ones_like(log_ratio)

    def clipped(self, log_ratio: Tensor, weights: Tensor) -> Tensor:
        return torch.zeros_like(log_ratio)


class TruncatedImportance(Correction):
    """Truncated importance sampling: min(w, cap) for each token.

    Args:
        cap: largest weight, > 0; usual are 1.5 to 5.
    """

    def __init__(self, cap: float = 2.0) -> None:
        self.cap = positive("model.correction.cap", cap)

    def __call__(self, log_ratio: Tensor, mask: Tensor) -> Tensor:
        return log_ratio.exp().clamp(max=self.cap)


class IcePop(Correction):
    """w where it lies within bounds; tokens outside weigh nothing (IcePop).

    Args:
        low: smallest weight that counts, > 0.
        high: largest weight that counts, > ``low``; 2 for dense models, 5 for mixtures of experts.
    """

    def __init__(self, low: float = 0.5, high: float = 2.0) -> None:
        self.low, self.high = bounds(low, high)

    def __call__(self, log_ratio: Tensor, mask: Tensor) -> Tensor:
        ratio = log_ratio.exp()
        return ratio * ((ratio >= self.low) & (ratio <= self.high))


class GeometricMask(Correction):
    """Rows whose geometric mean of w lies within bounds weigh 1, others nothing.

    The mean does not depend on a row's length.

    Args:
        low: smallest mean that counts, > 0.
        high: largest mean that counts, > ``low``.
    """

    def __init__(self, low: float = 0.99, high: float = 1.01) -> None:
        self.low, self.high = bounds(low, high)

    def __call__(self, log_ratio: Tensor, mask: Tensor) -> Tensor:
        total = (log_ratio * mask).sum(-1, keepdim=True)
        mean = (total / mask.sum(-1, keepdim=True).clamp(min=1)).exp()
        return ((mean >= self.low) & (mean <= self.high)).to(log_ratio.dtype).expand_as(log_ratio)

    def clipped(self, log_ratio: Tensor, weights: Tensor) -> Tensor:
        """Tokens of the rows that weigh nothing."""
        return 1 - weights


class ScoreCentering(TruncatedImportance):
    """Truncated importance sampling, less its expected score (2609.20807).

    Truncated weights leave E_q[min(w, C) ∇log p] ≠ 0: every update moves the policy in this direction whatever the
    rewards, and every sync feeds it back. The loss of a token becomes −A (min(w, C) log p_y − c) with

        c = Σ_v sg(min(p_v, C q_v) − min(1, C ρ) p_v) log p_v,   ρ = (1 − Σ_v q_v) / (1 − Σ_v p_v),

    v over the engine's ``top_k`` likeliest tokens. The others are taken for ρ p_v each, and Σ p ∇log p = 0 moves their
    score to the likeliest. p = π_old at an iteration's first optimizer step; later steps take their own p. Only the
    policy loss is centred: its advantage is constant over the tokens that could have been sampled, a gate is not.

    Args:
        cap: C, > 0.
        top_k: the tokens v, ≥ 1; a server gives 20 unless it is started with a larger --max-logprobs.
    """

    def __init__(self, cap: float = 2.0, top_k: int = 20) -> None:
        super().__init__(cap)
        self.top_k = self.likely = at_least("model.correction.top_k", top_k, 1)

    def centre(self, student_top: Tensor, likely: Tensor) -> Tensor:
        named, others = student_top[..., :-1], student_top[..., -1:].detach().exp()
        p, q = named.detach().exp(), likely[..., 1].to(named.dtype).exp()
        rest = (1 - q.sum(-1, keepdim=True)).clamp(min=0) / others.clamp(min=torch.finfo(named.dtype).tiny)
        return ((torch.minimum(p, self.cap * q) - (self.cap * rest).clamp(max=1) * p) * named).sum(-1)


def corrected(
    inputs: LossInputs, correction: Correction | None, log_ratio: Tensor, likely: Tensor | None
) -> LossInputs:
    """The inputs with the correction's weights, and its centre where it reads the likeliest tokens.

    Args:
        inputs: with ``student_top`` as ``Correction.centre`` reads it, where ``likely`` is given.
        correction: None: the inputs stay as they are.
        log_ratio: log w, [B, R].
        likely: [B, R, k, 2], as ``Correction.centre`` reads it.
    """
    if correction is None:
        return inputs
    centre = None
    if likely is not None and inputs.student_top is not None:
        centre = correction.centre(inputs.student_top, likely)
    return replace(inputs, correction=correction(log_ratio, inputs.mask), centre=centre)


def chosen(correction: Correction | None, importance_cap: float | None) -> Correction | None:
    """``correction``, or what ``importance_cap`` abbreviates. Raises UserError where both are set."""
    if importance_cap is None:
        return correction
    if correction is not None:
        raise UserError("model.importance_cap: model.correction is set as well; set one of them to null")
    return TruncatedImportance(importance_cap)


#: names under which the means of w and of w² are kept until an iteration ends
MEAN, MEAN_SQUARE = "engine/importance", "engine/importance_squared"


def records(correction: Correction | None, log_ratio: Tensor, weights: Tensor | None) -> dict[str, Tensor]:
    """What is reported of a micro-batch's weights, [B, R] by name; nothing without a correction."""
    if correction is None or weights is None:
        return {}
    ratio = log_ratio.exp()
    return {"engine/importance_clipped": correction.clipped(log_ratio, weights), MEAN: ratio, MEAN_SQUARE: ratio**2}


def with_sample_size(values: dict[str, float]) -> dict[str, float]:
    """The figures of an iteration with (mean w)² / mean w² in place of the two means: the effective sample size as a
    share of the tokens."""
    mean, square = values.pop(MEAN, None), values.pop(MEAN_SQUARE, None)
    if mean is not None and square:
        values["engine/effective_sample_size"] = mean**2 / square
    return values


def bounds(low: float, high: float) -> tuple[float, float]:
    """Both, if 0 < ``low`` < ``high``. Raises UserError otherwise."""
    positive("model.correction.low", low)
    positive("model.correction.high", high)
    if low >= high:
        raise UserError(f"model.correction.low: {low:g}; must be below high ({high:g})")
    return low, high
