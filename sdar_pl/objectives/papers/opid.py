"""OPID, on-policy skill distillation (2606.26790): the gap is added to the advantage.

In the paper the privileged context is hindsight skills of the episode and of critical steps; such a context provider is
left out.
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
        coefficient: η ≥ 0, 0.001 in the paper.
        clip: bound ≥ 0 on |Δ|, in nats; null, our default: no bound.
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
