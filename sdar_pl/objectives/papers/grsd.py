"""GRSD, group-reflective self-distillation (2607.28076): a turn's mean gap, relative to the group's, weighs the turn.

Formula and numbers are those of the authors' code (BinbZheng1/GRSD, its training scripts): λ = 0.5, q clipped to ±0.2,
only groups with both outcomes. A success is what the environment reports; theirs is a reward above 0. Left out: their
privileged context, a DO/AVOID list that the policy writes from its own reflections on the group, and the loss that
trains the reflections.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdar_pl.checks import at_least, between
from sdar_pl.objectives.functional import LOG_RATIO_LIMIT, per_token
from sdar_pl.objectives.inputs import LossInputs
from sdar_pl.objectives.shapers import KEY, AdvantageShaper
from sdar_pl.objectives.turns import turn_mean, turn_sum

EPSILON = 1e-6


class GRSDShaper(AdvantageShaper):
    """GRSD's advantages A·max(floor, 1 + λ·clip(q, ±clip)), in groups with a success and a failure.

    q = expm1(sign(A)·mean Δ of the turn) / (mean of |expm1(·)| over the group's turns + 1e-6). With the defaults the
    factor is 0.9 to 1.1. The sign of the advantage stays. A group of equal outcomes keeps its advantages bit for bit,
    and so does a group whose gaps are all 0.

    Args:
        coefficient: λ ≥ 0; 0 is GRPO.
        floor: smallest factor, 0 to 1. It acts only where λ·clip > 1 − floor.
        clip: bound ≥ 0 on |q|.
    """

    across_rows = True

    def __init__(self, coefficient: float = 0.5, floor: float = 0.1, clip: float = 0.2) -> None:
        self.coefficient = at_least(f"{KEY}.coefficient", coefficient, 0)
        self.floor = between(f"{KEY}.floor", floor, 0, 1)
        self.clip = at_least(f"{KEY}.clip", clip, 0)

    def __call__(self, inputs: LossInputs) -> Tensor:
        rates = self.success_rates(inputs)
        mask, turns, groups = inputs.mask, inputs.turns, inputs.groups
        assert groups is not None
        advantages = per_token(inputs.advantages, mask)
        mean = turn_mean(inputs.behaviour_gap, turns, mask)
        raw = mask * torch.expm1((advantages.sign() * mean).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
        share = mask / turn_sum(mask, turns, mask).clamp(min=1)  # the tokens of a turn together weigh one
        factor = torch.ones_like(raw)
        for group in set(groups[(rates > 0) & (rates < 1)].tolist()):
            own = groups == group
            size = (share[own] * raw[own].abs()).sum() / share[own].sum().clamp(min=1)
            q = (raw[own] / (size + EPSILON)).clamp(-self.clip, self.clip)
            factor[own] = (1 + self.coefficient * q).clamp(min=self.floor)
        return advantages * factor
