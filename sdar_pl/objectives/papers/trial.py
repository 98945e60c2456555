"""TRIAL (2608.07371): distillation's weight goes to the turns whose outcome surprises, by the teacher that reads it.

Left out: the clamp of its loss to the size of GRPO's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdar_pl.objectives.functional import fill_masked
from sdar_pl.objectives.gates import ConstantGate, Gate
from sdar_pl.objectives.inputs import LossInputs
from sdar_pl.objectives.turns import turn_sum


class TurnGate(Gate):
    """TRIAL's turn weights (2608.07371) on another gate: g_t·m_k with m_k = (Σ_k |Δ| / Σ |Δ|) / (n_k / n) of turn k.

    Σ_k and n_k are over the tokens of a turn, Σ and n over the row's; the mean of m over a row's tokens is 1. With
    ``windowed`` history a row is one turn, and m is 1.

    Args:
        gate: the gate of each token.
        permuted: TRIAL's control: each turn has the weight of another turn of its row, which one changes with the
            iteration. The values stay, their places do not.
    """

    def __init__(self, gate: Gate = ConstantGate(1.0), permuted: bool = False) -> None:  # noqa: B008 - never changed
        self.gate, self.permuted, self.signed = gate, permuted, gate.signed

    def __call__(self, gap: Tensor, inputs: LossInputs) -> Tensor:
        mask, turns = inputs.mask, inputs.turns
        size = fill_masked(gap.abs(), mask)
        share = turn_sum(size, turns, mask) / size.sum(1, keepdim=True).clamp(min=torch.finfo(size.dtype).tiny)
        length = turn_sum(mask, turns, mask) / mask.sum(1, keepdim=True).clamp(min=1)
        # Where the gap is 0 everywhere, no turn is more than another.
        weights = torch.where(size.sum(1, keepdim=True) > 0, share / length.clamp(min=1e-12), torch.ones_like(share))
        if self.permuted:
            weights = elsewhere(weights, turns, mask, inputs.iteration)
        return self.gate(gap, inputs) * fill_masked(weights, mask)


def elsewhere(weights: Tensor, turns: Tensor, mask: Tensor, iteration: int) -> Tensor:
    """Weights [B, R] of turns, each at another turn of its row: all turns are shifted by the same number of places,
    which depends on the iteration and the row's number of turns alone, and so not on how rows are packed."""
    moved = weights.clone()
    for row, (own, real) in enumerate(zip(turns, mask > 0, strict=True)):
        numbers = own[real].unique()  # ascending
        if len(numbers) < 2:
            continue
        shift = 1 + iteration % (len(numbers) - 1)
        for number, other in zip(numbers, numbers.roll(shift), strict=True):
            moved[row, (own == number) & real] = weights[row, (own == other) & real][0]
    return moved
