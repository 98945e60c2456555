"""AgentOPSD (2608.05987): each turn's gap moves the teacher's belief in success, which weighs the turn's advantage.

Formula and numbers are those of the authors' code (ZethWang/AgentOPSD, its training scripts), with one exception. V_0
is the group's success rate, as in the paper; the code takes the mean return clamped to 1 − 1e-4 instead. With a reward
of 10 for success that is 1 − 1e-4 as soon as one episode of eight succeeds, and the belief starts saturated.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdar_pl.checks import at_least, between
from sdar_pl.objectives.functional import per_token, scale_advantages
from sdar_pl.objectives.inputs import LossInputs
from sdar_pl.objectives.shapers import KEY, AdvantageShaper

PRIOR_MARGIN = 1e-4  # the prior's distance from 0 and 1, where its logit is infinite
EPSILON = 1e-6


class AgentOPSDShaper(AdvantageShaper):
    """AgentOPSD's advantages A·[(1 − mix) + mix·m], m = clip(1 + strength·sign(A)·z(V_k − V_{k−1}), 1 ± clip).

    The belief after turn k is V_k = σ(logit V_{k−1} + Σ Δ over turn k), from V_0, the success rate of the group (1e-4
    to 1 − 1e-4). z standardises over the turns of the episode: mean, population deviation + 1e-6. A turn that raises
    the belief counts more in a good episode and less in a bad one. The sign of the advantage stays. An episode's turns
    may lie in many rows.

    Args:
        mix: share of the multiplier m, 0 (GRPO) to 1.
        strength: change of m per standard deviation of the belief's rise, ≥ 0. The paper has one number b for
            ``strength`` and ``clip``.
        clip: largest deviation of m from 1, 0 to 1.
    """

    across_rows = True

    def __init__(self, mix: float = 0.5, strength: float = 0.2, clip: float = 0.2) -> None:
        self.mix = between(f"{KEY}.mix", mix, 0, 1)
        self.strength = at_least(f"{KEY}.strength", strength, 0)
        self.clip = between(f"{KEY}.clip", clip, 0, 1)

    def __call__(self, inputs: LossInputs) -> Tensor:
        gap = inputs.behaviour_gap
        prior = self.success_rates(inputs).to(gap.dtype).clamp(PRIOR_MARGIN, 1 - PRIOR_MARGIN).logit()
        assert inputs.episodes is not None
        real = inputs.mask > 0
        width = int(inputs.turns.max()) + 1
        keys = (inputs.episodes[:, None] * width + inputs.turns)[real]  # one key a turn, sorted by episode, then turn
        unique, turn = torch.unique(keys, return_inverse=True)
        sums = gap.new_zeros(len(unique)).index_add(0, turn, gap[real])
        start = torch.zeros_like(sums)
        start[turn] = prior[:, None].expand_as(gap)[real]
        rise = torch.zeros_like(sums)
        for episode in set((unique // width).tolist()):
            own = unique // width == episode
            logits = torch.cat([start[own][:1], start[own] + sums[own].cumsum(0)])  # of V_0, V_1, …
            step = torch.sigmoid(logits).diff()
            rise[own] = (step - step.mean()) / (step.std(correction=0) + EPSILON)
        advantages = per_token(inputs.advantages, inputs.mask)
        token_rise = torch.zeros_like(advantages)
        token_rise[real] = rise[turn]
        factor = (1 + self.strength * advantages.sign() * token_rise).clamp(1 - self.clip, 1 + self.clip)
        return scale_advantages(advantages, factor, mix=self.mix)
