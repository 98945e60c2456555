"""Shapers: the teacher changes the advantage of each token instead of adding a loss."""

from __future__ import annotations

from torch import Tensor

from sdar_pl.checks import between
from sdar_pl.objectives.functional import rlsd_advantages
from sdar_pl.objectives.inputs import LossInputs
from sdar_pl.objectives.schedules import Linear, Schedule


class AdvantageShaper:
    """Base: ``shaper(inputs)`` gives the token advantages [B, R], detached. It is called only with a teacher.

    ``across_rows``: it compares rows of an episode or a group, which micro-batches split. The trainer then calls
    Objective.shape once an iteration on all rows (with ``old`` log-probs, ``episodes`` and ``groups``).
    """

    across_rows: bool = False

    def __call__(self, inputs: LossInputs) -> Tensor:
        raise NotImplementedError


class RLSDShaper(AdvantageShaper):
    """A·[(1 − m) + m·clip(exp(sign(A)·Δ), 1 − clip, 1 + clip)], m = mix·schedule(iteration) (RLSD).

    Δ is taken under the weights that sampled the rows, so that it does not drift within an iteration.
    """

    def __init__(self, mix: float = 0.5, clip: float = 0.2, schedule: Schedule = Linear()) -> None:  # noqa: B008
        self.mix = between("model.objective.shaper.mix", mix, 0, 1)
        self.clip = between("model.objective.shaper.clip", clip, 0, 1)
        self.schedule = schedule

    def __call__(self, inputs: LossInputs) -> Tensor:
        mix = self.mix * self.schedule(inputs.iteration)
        assert inputs.teacher_logprobs is not None
        return rlsd_advantages(
            inputs.advantages, inputs.behaviour, inputs.teacher_logprobs, inputs.mask, mix=mix, clip=self.clip
        )
