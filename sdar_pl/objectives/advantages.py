"""Advantages: from the rewards of an iteration's rows to one number a row, [N] → [N].

An invalid response costs its own turn a penalty p (``data.play.invalid_penalty``), and no other turn of its episode.

- ``unit: row`` is the reference code (2605.15155). A row's reward is its episode's, less p where the row is an invalid
  turn; the group's mean and deviation count the rows. In a group of equal outcomes with a share q of invalid turns,
  invalid turns get −√((1−q)/q) and valid ones √(q/(1−q)), whatever p is.
- ``unit: episode`` keeps penalties out of the statistics. An episode's advantage A is of the environment's rewards, and
  the tokens of an invalid turn have A − p. This is the policy gradient of E[R] − p·E[number of invalid turns] with the
  penalty credited to its own turn: ∇ = E[Σ_t (A − p·1[turn t invalid]) ∇log π(turn t)]. A baseline would not change the
  expectation, and without one valid turns keep exactly A. p counts in the unit of A: deviations of the group's rewards
  with ``scale: std``, rewards with the other scales. p is not divided by a deviation of its own, because the deviation
  of few invalid turns is close to 0: a single one among n rows would get −√n.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from sdar_pl.checks import one_of
from sdar_pl.errors import UserError
from sdar_pl.objectives.group_statistics import Scale, Unit, first_rows, group_advantages, standardise


class Advantage:
    """Base class: ``advantage(rewards, groups, episodes)``, all [N], returns the rows' advantages [N].

    The rows are those of this rank, which has whole groups; with ``whole_batch`` those of all ranks.
    ``needs_anchors`` says that the keyword arguments ``anchors``, ``step_rewards`` and ``step_penalties`` [N] are
    needed too (papers/gigpo.py); they exist with windowed history only. ``unit`` is what the statistics count once.

    ``needs_stages`` is the number K of stages that the advantage tells apart, 0 for none: it then takes the keyword
    argument ``stage_rewards`` [N, K] and returns [N, K] (papers/rubricem.py).
    """

    unit: Unit = "episode"
    needs_anchors: bool = False
    needs_stages: int = 0
    whole_batch: bool = False

    def __call__(self, rewards: Tensor, groups: Tensor, episodes: Tensor) -> Tensor:
        raise NotImplementedError

    def validate(self, group_size: int) -> None:
        """Raises UserError if the advantage is not defined for groups of ``group_size`` episodes."""


class GroupAdvantage(Advantage):
    """Group-relative advantage: a row's reward compared with its group's (GRPO, 2402.03300).

    Args:
        unit: what the group's statistics count once: episode, or row (long episodes then dominate).
        scale: std divides by the group's deviation (GRPO), none does not (Dr. GRPO, 2503.20783), leave-one-out
            compares with the mean of the others (RLOO, 2402.14740).
    """

    def __init__(self, unit: Unit = "episode", scale: Scale = "std") -> None:
        self.unit = unit
        self.scale: Scale = scale

    def __call__(self, rewards: Tensor, groups: Tensor, episodes: Tensor) -> Tensor:
        return group_advantages(rewards, groups, episodes, unit=self.unit, scale=self.scale)

    def validate(self, group_size: int) -> None:
        if group_size < 2:
            raise UserError(f"data.group_size: {group_size}; must be ≥ 2, data.advantage compares episodes of a group")


class BatchAdvantage(Advantage):
    """Batch-relative advantage of REINFORCE++ (2501.03262): rewards standardised over all ranks' rows of the iteration.

    Args:
        baseline: group subtracts the group's mean first ("REINFORCE++ with baseline", several episodes a task); none is
            the original, for one episode a task.
        unit: what the statistics count once: episode or row.
    """

    whole_batch = True

    def __init__(self, baseline: Literal["group", "none"] = "group", unit: Unit = "episode") -> None:
        self.baseline = one_of("data.advantage.baseline", baseline, ("group", "none"))
        self.unit = unit

    def __call__(self, rewards: Tensor, groups: Tensor, episodes: Tensor) -> Tensor:
        values = rewards.double()
        if self.baseline == "group":
            values = group_advantages(values, groups, episodes, unit=self.unit, scale="none")
        samples = values[first_rows(episodes)[0]] if self.unit == "episode" else values
        return standardise(values, samples).to(rewards.dtype)

    def validate(self, group_size: int) -> None:
        if self.baseline == "group" and group_size < 2:
            raise UserError(f"data.group_size: {group_size}; must be ≥ 2, or set data.advantage.baseline to none")
