"""PCSD, persistent self-distillation (2608.01837): the gate reads a moving average of the gap.

Our choices, since the paper does not give the details: how the variance sets the window, and that the slope is the
first difference of the averaged gap.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdar_pl.checks import at_least
from sdar_pl.objectives.functional import fill_masked
from sdar_pl.objectives.gates import KEY, Gate
from sdar_pl.objectives.inputs import LossInputs
from sdar_pl.objectives.turns import turn_mean


def shifted(values: Tensor, by: int) -> Tensor:
    """``values`` [B, R] shifted right by ``by`` tokens and filled with 0 from the left."""
    return torch.cat([torch.zeros_like(values[:, :by]), values[:, : max(values.shape[1] - by, 0)]], 1)


class PCSDGate(Gate):
    """PCSD's gate σ(β·Δ̄·max(0, 1 − γ·ReLU(−slope))) of a moving average Δ̄ of the gap.

    Δ̄_t is the mean gap over the turn's last w_t tokens, token t included. w_t = 1 + (window − 1)·v/(v + v̄), rounded,
    with v the variance of the gap over the last ``window`` tokens and v̄ the mean of v in the turn: where the gap is
    steady, Δ̄ is the token's own gap; where it is noisy, an average. The slope is Δ̄_t − Δ̄_{t−1} within the turn: a
    falling gap counts less. ``window`` 1 and ``gamma`` 0 is SDAR's gap gate.

    Args:
        beta: slope β ≥ 0 of the sigmoid, in 1/nat.
        gamma: damping γ ≥ 0 of a falling gap, in 1/nat; 0 is none.
        window: largest number of tokens to average over, ≥ 1.
    """

    def __init__(self, beta: float = 5.0, gamma: float = 0.5, window: int = 8) -> None:
        self.beta = at_least(f"{KEY}.beta", beta, 0)
        self.gamma = at_least(f"{KEY}.gamma", gamma, 0)
        self.window = at_least(f"{KEY}.window", window, 1)

    def __call__(self, gap: Tensor, inputs: LossInputs) -> Tensor:
        mask, turns = inputs.mask, inputs.turns
        # Trailing sums over k + 1 tokens, never across the border of a turn: counts, first and second moments.
        same = [
            mask * shifted(mask, k) * (shifted(turns + 1, k) == turns + 1)  # + 1: the filled-in 0 is not a turn
            for k in range(self.window)
        ]
        count = torch.stack(same, -1).cumsum(-1)  # [B, R, window]
        first = torch.stack([s * shifted(gap, k) for k, s in enumerate(same)], -1).cumsum(-1)
        second = torch.stack([s * shifted(gap, k).square() for k, s in enumerate(same)], -1).cumsum(-1)
        means = first / count.clamp(min=1)
        variance = (second[..., -1] / count[..., -1].clamp(min=1) - means[..., -1].square()).clamp(min=0)
        usual = turn_mean(variance, turns, mask)
        share = variance / (variance + usual).clamp(min=1e-12)
        width = ((self.window - 1) * share).round().long()  # index of the window: 0 is the token alone
        lasting = means.gather(-1, width[..., None])[..., 0]
        one_back = same[1] if self.window > 1 else mask * shifted(mask, 1) * (shifted(turns + 1, 1) == turns + 1)
        slope = one_back * (lasting - shifted(lasting, 1))
        damping = (1 - self.gamma * (-slope).clamp(min=0)).clamp(min=0)
        return fill_masked(torch.sigmoid(self.beta * lasting * damping), mask)
