"""OPID, on-policy skill distillation (2606.26790): the gap is added to the advantage.

Formula and number are those of the authors' code (jinyangwu/OPID, its training scripts): the gap neither normalised nor
clipped, 0.001 for skills of the episode and of a step alike. Left out: their privileged context. A second language
model writes a skill for the whole episode and up to five for single steps; a step reads its own skill if it has one,
otherwise the episode's. Nearest here: configs/contexts/hindsight.yaml.
"""

from __future__ import annotations

from torch import Tensor

from sdar_pl.checks import at_least
from sdar_pl.objectives.functional import per_token
from sdar_pl.objectives.inputs import LossInputs
from sdar_pl.objectives.schedules import Constant, Schedule
from sdar_pl.objectives.shapers import KEY, AdvantageShaper


class OPIDShaper(AdvantageShaper):
    """OPID's advantages A + η·schedule(iteration)·Δ, Δ = log π_T − log π_old: the gap of the *old* policy.

    On-policy, the addition is the policy gradient of η·(reverse KL to the teacher), under the policy loss's own clip.

    Args:
        coefficient: η ≥ 0; 0.001 in the paper.
        clip: bound ≥ 0 on |Δ|, in nats; null, as in the authors' scripts: no bound.
        schedule: factor on η at each iteration.
    """

    def __init__(
        self,
        coefficient: float = 0.001,
        clip: float | None = None,
        schedule: Schedule = Constant(),  # noqa: B008 – immutable
    ) -> None:
        self.coefficient = at_least(f"{KEY}.coefficient", coefficient, 0)
        self.clip = at_least(f"{KEY}.clip", clip, 0)
        self.schedule = schedule

    def __call__(self, inputs: LossInputs) -> Tensor:
        gap = inputs.behaviour_gap if self.clip is None else inputs.behaviour_gap.clamp(-self.clip, self.clip)
        return per_token(inputs.advantages, inputs.mask) + self.coefficient * self.schedule(inputs.iteration) * gap
