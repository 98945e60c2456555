"""Sums over the turns of a row, for what reasons per turn and not per token."""

from __future__ import annotations

import torch
from torch import Tensor


def turn_sum(values: Tensor, turns: Tensor, mask: Tensor) -> Tensor:
    """Sum of ``values`` [B, R] over each token's turn (``turns`` [B, R]) within its row, back at every token [B, R]."""
    width = int(turns.max()) + 1 if turns.numel() else 1
    sums = values.new_zeros(len(values), width)
    sums.scatter_add_(1, turns, values.masked_fill(mask == 0, 0.0))
    return sums.gather(1, turns)


def turn_mean(values: Tensor, turns: Tensor, mask: Tensor) -> Tensor:
    """Mean over each token's turn within its row, at every token [B, R]."""
    count = turn_sum(torch.ones_like(values), turns, mask)
    return turn_sum(values, turns, mask) / count.clamp(min=1)
