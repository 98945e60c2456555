"""Sums, means and medians over the turns of a row, for methods that weigh turns and not tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from sdar_pl.objectives.functional import fill_masked


def turn_sum(values: Tensor, turns: Tensor, mask: Tensor) -> Tensor:
    """Sum of ``values`` [B, R] over each turn (``turns`` [B, R]) of a row, at each of its tokens [B, R]."""
    width = int(turns.max()) + 1 if turns.numel() else 1
    sums = values.new_zeros(len(values), width)
    sums.scatter_add_(1, turns, fill_masked(values, mask))
    return sums.gather(1, turns)


def turn_mean(values: Tensor, turns: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` [B, R] over each turn of a row, at each of its tokens [B, R]."""
    count = turn_sum(torch.ones_like(values), turns, mask)
    return turn_sum(values, turns, mask) / count.clamp(min=1)


def turn_median(values: Tensor, turns: Tensor, mask: Tensor) -> Tensor:
    """Median of ``values`` [B, R] over each turn of a row, at each of its tokens [B, R].

    The median of an even number of tokens is the mean of the middle two.
    """
    result = torch.zeros_like(values)
    for turn in set(turns[mask > 0].tolist()):
        own = (turns == turn) & (mask > 0)
        median = values.masked_fill(~own, torch.nan).nanquantile(0.5, dim=1, keepdim=True)
        result = torch.where(own, median, result)
    return result
