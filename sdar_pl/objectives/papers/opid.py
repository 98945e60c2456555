"""OPID, on-policy skill distillation (2606.26790): the teacher's log-prob shift is added to the advantage.

Its privileged context is hindsight skills of the episode and of critical steps (a provider, not here).
"""

from __future__ import annotations

from torch import Tensor

from sdar_pl.checks import at_least
from sdar_pl.objectives.functional import per_token
from sdar_pl.objectives.inputs import LossInputs
from sdar_pl.objectives.schedules import Constant, Schedule
from sdar_pl.objectives.shapers import AdvantageShaper


class OPIDShaper(AdvantageShaper):
    """A + η·Δ with Δ = log π_T − log π_old: the *old* policy scores the response with and without the skill.

    η = ``coefficient``·schedule(step), 0.001 in the paper. ``clip`` bounds |Δ| (None, our default: it is free).
    On-policy the addition is the policy gradient of η·(reverse KL to the teacher), under the policy loss's own clip.
    """

    def __init__(
        self,
        coefficient: float = 0.001,
        clip: float | None = None,
        schedule: Schedule = Constant(),  # noqa: B008 – immutable
    ) -> None:
        self.coefficient = at_least("model.objective.shaper.coefficient", coefficient, 0)
        self.clip = at_least("model.objective.shaper.clip", clip, 0)
        self.schedule = schedule

    def __call__(self, inputs: LossInputs) -> Tensor:
        gap = inputs.behaviour_gap if self.clip is None else inputs.behaviour_gap.clamp(-self.clip, self.clip)
        return per_token(inputs.advantages, inputs.mask) + self.coefficient * self.schedule(inputs.iteration) * gap
