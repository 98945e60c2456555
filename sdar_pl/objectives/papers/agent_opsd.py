"""AgentOPSD (2608.05987): each turn's gap moves the teacher's belief in success, which weighs the turn's advantage.

Our choices, since the paper does not give the details: V_0 = ½, z standardises over the turns of the episode, and the
multiplier is clipped to 1 ± 0.5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdar_pl.checks import at_least, between
from sdar_pl.errors import UserError
from sdar_pl.objectives.functional import per_token, scale_advantages
from sdar_pl.objectives.inputs import LossInputs
from sdar_pl.objectives.shapers import KEY, AdvantageShaper


class AgentOPSDShaper(AdvantageShaper):
    """AgentOPSD's advantages A·[(1 − mix) + mix·m], m = clip(1 + strength·sign(A)·z(V_k − V_{k−1}), 1 ± clip).

    The belief after turn k is V_k = σ(logit V_{k−1} + Σ Δ over turn k). A turn that raises the belief counts more in a
    good episode and less in a bad one. The sign of the advantage stays. An episode's turns may lie in many rows.

    Args:
        mix: share of the multiplier m, 0 (GRPO) to 1.
        strength: change of m per standard deviation of the belief's rise, ≥ 0.
        clip: largest deviation of m from 1, 0 to 1.
    """

    across_rows = True

    def __init__(self, mix: float = 0.5, strength: float = 0.2, clip: float = 0.5) -> None:
        self.mix = between(f"{KEY}.mix", mix, 0, 1)
        self.strength = at_least(f"{KEY}.strength", strength, 0)
        self.clip = between(f"{KEY}.clip", clip, 0, 1)

    def __call__(self, inputs: LossInputs) -> Tensor:
        if inputs.episodes is None:
            raise UserError(f"{KEY}: AgentOPSDShaper needs the episode of each row; give LossInputs.episodes")
        real = inputs.mask > 0
        width = int(inputs.turns.max()) + 1
        keys = (inputs.episodes[:, None] * width + inputs.turns)[real]  # one key a turn, sorted by episode, then turn
        unique, turn = torch.unique(keys, return_inverse=True)
        sums = inputs.behaviour_gap.new_zeros(len(unique)).index_add(0, turn, inputs.behaviour_gap[real])
        rise = torch.zeros_like(sums)
        for episode in set((unique // width).tolist()):
            own = unique // width == episode
            belief = torch.sigmoid(sums[own].cumsum(0))
            step = belief - torch.cat([belief.new_tensor([0.5]), belief[:-1]])
            deviation = step.std(correction=0)
            rise[own] = (step - step.mean()) / deviation if deviation > 1e-8 else 0.0
        advantages = per_token(inputs.advantages, inputs.mask)
        token_rise = torch.zeros_like(advantages)
        token_rise[real] = rise[turn]
        factor = (1 + self.strength * advantages.sign() * token_rise).clamp(1 - self.clip, 1 + self.clip)
        return scale_advantages(advantages, factor, mix=self.mix)
