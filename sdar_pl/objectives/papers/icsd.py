"""ICSD, influence-calibrated self-distillation (2608.14945): the gate follows the token's influence on the return.

Our choices, since the paper does not give the details: the Laplace distribution has location 0 (no influence), and its
two scales are fitted to the turn by maximum likelihood.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdar_pl.objectives.functional import fill_masked, log_ratio
from sdar_pl.objectives.gates import GapGate
from sdar_pl.objectives.inputs import LossInputs
from sdar_pl.objectives.turns import turn_mean, turn_sum

TINY = 1e-12


def laplace_cdf(values: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """CDF of the asymmetric Laplace distribution at 0 with mean positive part ``up`` and mean negative part ``down``.

    ``up`` and ``down`` are its maximum-likelihood parameters. With a = √up and b = √down, the CDF is
    1 − a/(a + b)·exp(−x/(a(a + b))) for x ≥ 0 and b/(a + b)·exp(x/(b(a + b))) for x < 0. All tensors have one shape.
    """
    a, b = up.sqrt() + TINY, down.sqrt() + TINY
    above = 1 - a / (a + b) * torch.exp(-values.clamp(min=0) / (a * (a + b)))
    below = b / (a + b) * torch.exp(values.clamp(max=0) / (b * (a + b)))
    return torch.where(values >= 0, above, below)


class ICSDGate(GapGate):
    """ICSD's gate g·F(u)·c with g = σ(βΔ), influence u = A·ρ·Δ, ρ = π_θ/π_old and F the turn's Laplace CDF.

    The constant c keeps the turn's sum of gates as it is under g. Tokens with A < 0 and Δ < 0 keep the gate g and do
    not enter that sum: advantage and teacher both push them down already.

    Args:
        beta: slope β ≥ 0 of the gap gate, in 1/nat.
    """

    def __call__(self, gap: Tensor, inputs: LossInputs) -> Tensor:
        mask, turns = inputs.mask, inputs.turns
        gate = fill_masked(super().__call__(gap, inputs), mask)
        advantages = fill_masked(inputs.advantages, mask)
        ratio = log_ratio(inputs.student_logprobs.detach(), inputs.behaviour, mask).exp()
        influence = advantages * ratio * gap
        free = mask * ~((advantages < 0) & (gap < 0))  # 1 where the gate may move
        up = turn_mean(influence.clamp(min=0), turns, free)
        down = turn_mean((-influence).clamp(min=0), turns, free)
        scaled = gate * laplace_cdf(influence, up, down)
        mass = turn_sum(gate, turns, free) / turn_sum(scaled, turns, free).clamp(min=TINY)
        return torch.where(free > 0, scaled * mass, gate)
