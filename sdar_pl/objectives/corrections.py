"""Corrections of the mismatch between the engine that sampled and the trainer: token weights from w = π_old / q.

π_old is the trainer's probability of a sampled token under the weights that rolled out, q the engine's. A mean over
tokens of q of w·f is a mean over tokens of π_old of f, for any f: the policy loss and the distillation, whose terms
stand on the student's own tokens, take the same weights. The alternatives trade bias for variance. w is detached.
Left out: score centering (2609.20807), which needs the engine's likeliest tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from sdar_pl.checks import positive
from sdar_pl.errors import UserError


class Correction(ABC):
    """Base of the corrections. Raises UserError for numbers out of range."""

    @abstractmethod
    def __call__(self, log_ratio: Tensor, mask: Tensor) -> Tensor:
        """Token weights [B, R] from log w = log π_old − log q [B, R] and the mask [B, R] of 0 and 1."""

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
