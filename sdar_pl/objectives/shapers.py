"""Shapers: the teacher changes the advantage of each token instead of adding a loss."""

from __future__ import annotations

from torch import Tensor

from sdar_pl.checks import between
from sdar_pl.errors import UserError
from sdar_pl.objectives.functional import rlsd_advantages
from sdar_pl.objectives.group_statistics import success_rates
from sdar_pl.objectives.inputs import LossInputs
from sdar_pl.objectives.schedules import Linear, Schedule

KEY = "model.objective.shaper"


class AdvantageShaper:
    """Base class: ``shaper(inputs)`` returns the token advantages [B, R], detached. ``inputs`` always have a teacher.

    ``across_rows`` says that the shaper compares rows of an episode or a group, which micro-batches split. The trainer
    then calls Objective.shape once an iteration on all rows, with ``old_logprobs``, ``episodes``, ``groups`` and
    ``success``.
    """

    across_rows: bool = False

    def __call__(self, inputs: LossInputs) -> Tensor:
        raise NotImplementedError

    def success_rates(self, inputs: LossInputs) -> Tensor:
        """The success rate [B] of each row's group. Raises UserError if ``inputs`` lack what it is made of."""
        if inputs.episodes is None or inputs.groups is None or inputs.success is None:
            raise UserError(
                f"{KEY}: {type(self).__name__} needs the episode, group and success of each row; give "
                "LossInputs.episodes, groups and success"
            )
        return success_rates(inputs.success, inputs.groups, inputs.episodes)


class RLSDShaper(AdvantageShaper):
    """RLSD's advantages A·[(1 − m) + m·clip(exp(sign(A)·Δ), 1 − clip, 1 + clip)], m = mix·schedule(iteration).

    Δ is the gap of the weights that sampled the rows, so that it stays the same within an iteration.

    Args:
        mix: share of the teacher's factor, 0 (GRPO) to 1.
        clip: largest deviation of that factor from 1, 0 to 1.
        schedule: factor on ``mix`` at each iteration; by default it falls from 1 to 0 in 100 iterations.
    """

    def __init__(self, mix: float = 0.5, clip: float = 0.2, schedule: Schedule = Linear()) -> None:  # noqa: B008
        self.mix = between(f"{KEY}.mix", mix, 0, 1)
        self.clip = between(f"{KEY}.clip", clip, 0, 1)
        self.schedule = schedule

    def __call__(self, inputs: LossInputs) -> Tensor:
        mix = self.mix * self.schedule(inputs.iteration)
        assert inputs.teacher_logprobs is not None
        return rlsd_advantages(
            inputs.advantages, inputs.behaviour, inputs.teacher_logprobs, inputs.mask, mix=mix, clip=self.clip
        )
