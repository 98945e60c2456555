"""ICSD, influence-calibrated self-distillation (2608.14945): the gate follows the token's influence on the return.

Ours to choose, since the details are not public: the location of the Laplace law is 0 (no influence) and its two
scales are fitted to the turn by maximum likelihood.
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
    """CDF of the asymmetric Laplace law at 0 that has mean positive part ``up`` and mean negative part ``down``.

    These are its maximum-likelihood scales: with a = √up, b = √down, it is 1 − a/(a + b)·exp(−x/(a(a + b))) for x ≥ 0
    and b/(a + b)·exp(x/(b(a + b))) below. All shapes alike.
    """
    a, b = up.sqrt() + TINY, down.sqrt() + TINY
    above = 1 - a / (a + b) * torch.exp(-values.clamp(min=0) / (a * (a + b)))
    below = b / (a + b) * torch.exp(values.clamp(max=0) / (b * (a + b)))
    return torch.where(values >= 0, above, below)


class ICSDGate(GapGate):
    """g·F(u)·c with g = σ(βΔ), u = A·ρ·Δ, ρ = π_θ/π_old, F the turn's Laplace CDF, c so that the turn's mass stays.

    Tokens with A < 0 and Δ < 0 keep their gate: the teacher's rejection of a failed episode's token is no influence
    to amplify. Mass: Σ gate over the other tokens of each turn equals Σ g over them.
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
        moved = gate * laplace_cdf(influence, up, down)
        mass = turn_sum(gate, turns, free) / turn_sum(moved, turns, free).clamp(min=TINY)
        return torch.where(free > 0, moved * mass, gate)
