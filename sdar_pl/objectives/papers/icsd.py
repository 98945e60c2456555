"""ICSD, influence calibration for self-distillation (2608.14945): the gate follows the token's influence on the return.

Formulas are the paper's, with its split η = ½. The authors' code (lanqz7766 on GitHub) has not been read. Our choice,
since the formulas leave it open: median and deviations are those of all tokens of the turn, also of those that keep the
gap gate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdar_pl.objectives.functional import fill_masked, log_ratio
from sdar_pl.objectives.gates import GapGate
from sdar_pl.objectives.inputs import LossInputs
from sdar_pl.objectives.turns import turn_mean, turn_median, turn_sum

TINY = 1e-12


def laplace_cdf(values: Tensor, centre: Tensor, below: Tensor, above: Tensor) -> Tensor:
    """CDF of the asymmetric Laplace distribution with median ``centre`` and one-sided mean deviations.

    It is ½·exp((x − μ)/b⁻) for x < μ and 1 − ½·exp(−(x − μ)/b⁺) for x ≥ μ, with b⁻ = ``below`` the mean of μ − x where
    x < μ and b⁺ = ``above`` the mean of x − μ where x ≥ μ. All tensors have one shape.
    """
    distance = values - centre
    lower = 0.5 * torch.exp(distance.clamp(max=0) / below.clamp(min=TINY))
    upper = 1 - 0.5 * torch.exp(-distance.clamp(min=0) / above.clamp(min=TINY))
    return torch.where(distance < 0, lower, upper)


class ICSDGate(GapGate):
    """ICSD's gate g·F(u)·c with g = σ(βΔ), influence u = A·ρ·Δ, ρ = π_θ/π_old and F the turn's Laplace CDF.

    F is located at the median of the turn's influences; its two scales are their mean deviations on either side. The
    constant c keeps the turn's sum of gates as it is under g. Tokens with A < 0 and Δ < 0 keep the gate g and do not
    enter that sum: advantage and teacher both push them down already.

    Args:
        beta: slope β ≥ 0 of the gap gate, in 1/nat.
    """

    def __call__(self, gap: Tensor, inputs: LossInputs) -> Tensor:
        mask, turns = inputs.mask, inputs.turns
        gate = fill_masked(super().__call__(gap, inputs), mask)
        advantages = fill_masked(inputs.advantages, mask)
        ratio = log_ratio(inputs.student_logprobs.detach(), inputs.behaviour, mask).exp()
        influence = advantages * ratio * gap
        centre = turn_median(influence, turns, mask)
        distance, low = (influence - centre).abs(), mask * (influence < centre)
        below, above = turn_mean(distance, turns, low), turn_mean(distance, turns, mask - low)
        free = mask * ~((advantages < 0) & (gap < 0))  # 1 where the gate may move
        scaled = gate * laplace_cdf(influence, centre, below, above)
        mass = turn_sum(gate, turns, free) / turn_sum(scaled, turns, free).clamp(min=TINY)
        return torch.where(free > 0, scaled * mass, gate)
