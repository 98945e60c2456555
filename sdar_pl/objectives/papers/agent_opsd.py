"""AgentOPSD (2608.05987): the teacher's word on each turn moves a belief in success, which weighs the turn's advantage.

Ours to choose, since the details are not public: V_0 = ½, z standardises over the turns of the episode, and the
multiplier is clipped to 1 ± 0.5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdar_pl.checks import at_least, between
from sdar_pl.errors import UserError
from sdar_pl.objectives.functional import per_token
from sdar_pl.objectives.inputs import LossInputs
from sdar_pl.objectives.shapers import AdvantageShaper


class AgentOPSDShaper(AdvantageShaper):
    """A·[(1 − mix) + mix·m], m = clip(1 + strength·sign(A)·z(V_k − V_{k−1}), 1 ± clip).

    V_k = σ(logit V_{k−1} + Σ Δ over turn k). A turn after which the teacher believes more in success counts more in
    a good episode and less in a bad one. The sign of the advantage stays. An episode's turns may lie in many rows.
    """

    across_rows = True

    def __init__(self, mix: float = 0.5, strength: float = 0.2, clip: float = 0.5) -> None:
        self.mix = between("model.objective.shaper.mix", mix, 0, 1)
        self.strength = at_least("model.objective.shaper.strength", strength, 0)
        self.clip = between("model.objective.shaper.clip", clip, 0, 1)

    def __call__(self, inputs: LossInputs) -> Tensor:
        if inputs.episodes is None:
            raise UserError(
                "model.objective.shaper: AgentOPSD follows a whole episode and needs the rows' episode numbers"
            )
        real = inputs.mask > 0
        width = int(inputs.turns.max()) + 1
        keys = (inputs.episodes[:, None] * width + inputs.turns)[real]  # one key a turn, sorted by episode, then turn
        names = torch.tensor(sorted(set(keys.tolist())), device=keys.device)
        turn = torch.searchsorted(names, keys)
        sums = inputs.behaviour_gap.new_zeros(len(names)).index_add(0, turn, inputs.behaviour_gap[real])
        rise = torch.zeros_like(sums)
        for episode in set((names // width).tolist()):
            own = names // width == episode
            belief = torch.sigmoid(sums[own].cumsum(0))
            step = belief - torch.cat([belief.new_tensor([0.5]), belief[:-1]])
            deviation = step.std(correction=0)
            rise[own] = (step - step.mean()) / deviation if deviation > 1e-8 else 0.0
        advantages = per_token(inputs.advantages, inputs.mask)
        moved = torch.zeros_like(advantages)
        moved[real] = rise[turn]
        factor = (1 + self.strength * advantages.sign() * moved).clamp(1 - self.clip, 1 + self.clip)
        return advantages * (1 + self.mix * (factor - 1))
