"""GRSD, group-relative self-distillation (2607.28076): a turn's weight is its mean gap relative to the group's.

In the paper the privileged context is a DO/AVOID list drawn from the group; such a context provider is left out. Our
choices, since the paper does not give the details: λ = 0.5, and the mean of |expm1| is over the group's turns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdar_pl.checks import at_least, between
from sdar_pl.errors import UserError
from sdar_pl.objectives.functional import LOG_RATIO_LIMIT, per_token
from sdar_pl.objectives.inputs import LossInputs
from sdar_pl.objectives.shapers import KEY, AdvantageShaper
from sdar_pl.objectives.turns import turn_mean, turn_sum


class GRSDShaper(AdvantageShaper):
    """GRSD's advantages A·max(floor, 1 + λq), q = expm1(sign(A)·mean Δ of the turn) / group mean of |expm1(·)|.

    The sign of the advantage stays. A group whose gaps are all 0 keeps its advantages bit for bit.

    Args:
        coefficient: λ ≥ 0; 0 is GRPO.
        floor: smallest factor, 0 to 1.
    """

    across_rows = True

    def __init__(self, coefficient: float = 0.5, floor: float = 0.1) -> None:
        self.coefficient = at_least(f"{KEY}.coefficient", coefficient, 0)
        self.floor = between(f"{KEY}.floor", floor, 0, 1)

    def __call__(self, inputs: LossInputs) -> Tensor:
        if inputs.groups is None:
            raise UserError(f"{KEY}: GRSDShaper needs the group of each row; give LossInputs.groups")
        mask, turns = inputs.mask, inputs.turns
        advantages = per_token(inputs.advantages, mask)
        mean = turn_mean(inputs.behaviour_gap, turns, mask)
        raw = mask * torch.expm1((advantages.sign() * mean).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
        share = mask / turn_sum(mask, turns, mask).clamp(min=1)  # the tokens of a turn together weigh one
        factor = torch.ones_like(raw)
        for group in set(inputs.groups.tolist()):
            own = inputs.groups == group
            size = (share[own] * raw[own].abs()).sum() / share[own].sum().clamp(min=1)
            if size > 0:
                factor[own] = (1 + self.coefficient * raw[own] / size).clamp(min=self.floor)
        return advantages * factor
