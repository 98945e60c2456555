"""GRSD, group-relative self-distillation (2607.28076): turns weigh by the teacher's gap relative to their group.

Its privileged context is a DO/AVOID list drawn from the group (a provider, not here). Ours to choose, since it is
not public: λ = 0.5, and the mean of |expm1| is over the group's turns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdar_pl.checks import at_least, between
from sdar_pl.errors import UserError
from sdar_pl.objectives.functional import LOG_RATIO_LIMIT, per_token
from sdar_pl.objectives.inputs import LossInputs
from sdar_pl.objectives.shapers import AdvantageShaper
from sdar_pl.objectives.turns import turn_mean, turn_sum


class GRSDShaper(AdvantageShaper):
    """A·max(floor, 1 + λq), q = expm1(sign(A)·mean Δ of the turn) / group mean of |expm1(·)|.

    The sign of the advantage stays. A group without any gap keeps its advantages bit for bit.
    """

    across_rows = True

    def __init__(self, coefficient: float = 0.5, floor: float = 0.1) -> None:
        self.coefficient = at_least("model.objective.shaper.coefficient", coefficient, 0)
        self.floor = between("model.objective.shaper.floor", floor, 0, 1)

    def __call__(self, inputs: LossInputs) -> Tensor:
        if inputs.groups is None:
            raise UserError(
                "model.objective.shaper: GRSD compares the turns of a group and needs the rows' group numbers"
            )
        mask, turns = inputs.mask, inputs.turns
        advantages = per_token(inputs.advantages, mask)
        mean = turn_mean(inputs.behaviour_gap, turns, mask)
        raw = mask * torch.expm1((advantages.sign() * mean).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
        share = mask / turn_sum(mask, turns, mask).clamp(min=1)  # a turn's tokens weigh one together
        factor = torch.ones_like(raw)
        for group in set(inputs.groups.tolist()):
            own = inputs.groups == group
            size = (share[own] * raw[own].abs()).sum() / share[own].sum().clamp(min=1)
            if size > 0:
                factor[own] = (1 + self.coefficient * raw[own] / size).clamp(min=self.floor)
        return advantages * factor
