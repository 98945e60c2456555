"""PCSD, persistent consistency for self-distillation (2608.01837): the gate reads a decaying average of the gap.

The authors have published no code that we know of. From the paper: a window of 1 to 8 tokens, short where the gap's
local variance is low; exponential decay within the window; the factor 1 − γ·ReLU(−slope/scale) outside the sigmoid,
with the slope of a least-squares line. Our choices: how the variance sets the window, decay 0.9 a token, the line over
the longest window, the turn's mean |Δ| as scale, and γ = 0.5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdar_pl.checks import at_least, between
from sdar_pl.objectives.functional import fill_masked
from sdar_pl.objectives.gates import KEY, Gate
from sdar_pl.objectives.inputs import LossInputs
from sdar_pl.objectives.turns import turn_mean

TINY = 1e-12


def shifted(values: Tensor, by: int) -> Tensor:
    """``values`` [B, R] shifted right by ``by`` tokens and filled with 0 from the left."""
    return torch.cat([torch.zeros_like(values[:, :by]), values[:, : max(values.shape[1] - by, 0)]], 1)


def least_squares_slope(recent: Tensor, real: Tensor) -> Tensor:
    """Slope per token [B, R] of the least-squares line through ``recent`` [B, R, K], 0 through a single token.

    ``recent[..., k]`` is the value k tokens back, ``real`` [B, R, K] 1 where that token exists and 0 from there on.
    """
    back = torch.arange(recent.shape[-1], device=recent.device, dtype=recent.dtype)
    n, k, kk = real.sum(-1), (real * back).sum(-1), (real * back.square()).sum(-1)
    y, ky = (real * recent).sum(-1), (real * back * recent).sum(-1)
    return (k * y - n * ky) / (n * kk - k.square()).clamp(min=1)  # n²(n² − 1)/12, at least 1 for two tokens


class PCSDGate(Gate):
    """PCSD's gate σ(β·Δ̄)·max(0, 1 − γ·ReLU(−slope)/scale) of a decaying average Δ̄ of the gap.

    Δ̄_t = Σ_k w_k·Δ_{t−k} / Σ_k w_k over the turn's last tokens, w_k = decay^k·clip(n_t − k, 0, 1). The window has
    n_t = 1 + (window − 1)·v/(v + v̄) tokens, with v the variance of the gap over the last ``window`` tokens and v̄ the
    mean of v in the turn: where the gap is steady, Δ̄ is the token's own gap; where it is noisy, an average. The slope
    is that of the least-squares line through the turn's last ``window`` gaps, the scale the turn's mean |Δ|: a falling
    gap counts less, a rising one no more. ``window`` 1 is SDAR's gap gate.

    Args:
        beta: slope β ≥ 0 of the sigmoid, in 1/nat.
        gamma: damping γ ≥ 0 of a falling gap, in tokens; 0 is none.
        window: largest number of tokens to average over, ≥ 1.
        decay: weight of a token relative to the next one, > 0 and ≤ 1; 1 is the plain average.
    """

    def __init__(self, beta: float = 5.0, gamma: float = 0.5, window: int = 8, decay: float = 0.9) -> None:
        self.beta = at_least(f"{KEY}.beta", beta, 0)
        self.gamma = at_least(f"{KEY}.gamma", gamma, 0)
        self.window = at_least(f"{KEY}.window", window, 1)
        self.decay = between(f"{KEY}.decay", decay, 0, 1, ends="(]")

    def __call__(self, gap: Tensor, inputs: LossInputs) -> Tensor:
        mask, turns = inputs.mask, inputs.turns
        steps = range(self.window)
        recent = torch.stack([shifted(gap, k) for k in steps], -1)  # [B, R, window], the gap k tokens back
        same = [mask * shifted(mask, k) * (shifted(turns + 1, k) == turns + 1) for k in steps]  # 0 is not a turn
        real = torch.stack(same, -1)  # 1 where that token is of the same turn

        count = real.sum(-1).clamp(min=1)
        mean = (real * recent).sum(-1) / count
        variance = (real * (recent - mean[..., None]).square()).sum(-1) / count
        share = variance / (variance + turn_mean(variance, turns, mask)).clamp(min=TINY)
        length = 1 + (self.window - 1) * share

        back = torch.arange(self.window, device=gap.device, dtype=gap.dtype)
        weights = real * self.decay**back * (length[..., None] - back).clamp(0, 1)
        lasting = (weights * recent).sum(-1) / weights.sum(-1).clamp(min=TINY)

        scale = turn_mean(gap.abs(), turns, mask).clamp(min=TINY)
        damping = (1 - self.gamma * (-least_squares_slope(recent, real)).clamp(min=0) / scale).clamp(min=0)
        return fill_masked(torch.sigmoid(self.beta * lasting) * damping, mask)
