"""Distillation: the auxiliary loss, an estimator under a gate with a scheduled coefficient."""

from __future__ import annotations

from torch import Tensor

from sdar_pl.checks import at_least
from sdar_pl.objectives.estimators import Estimator, Likelihood
from sdar_pl.objectives.functional import fill_masked
from sdar_pl.objectives.gates import GapGate, Gate
from sdar_pl.objectives.inputs import LossInputs
from sdar_pl.objectives.schedules import Constant, Schedule


class Distillation:
    """λ·schedule(iteration) · aggregate(estimator under the gate). The defaults are SDAR (2605.15155): λ 0.01, β 5."""

    def __init__(
        self,
        estimator: Estimator = Likelihood(),  # noqa: B008 – defaults are immutable
        gate: Gate = GapGate(),  # noqa: B008
        coefficient: float = 0.01,
        schedule: Schedule = Constant(),  # noqa: B008
    ) -> None:
        self.estimator = estimator
        self.gate = gate
        self.coefficient = at_least("model.objective.distillation.coefficient", coefficient, 0)
        self.schedule = schedule

    def scale(self, iteration: int) -> float:
        """λ at an iteration."""
        return self.coefficient * self.schedule(iteration)

    def weights(self, inputs: LossInputs) -> Tensor:
        """The gate [B, R], detached, 0 where masked."""
        return fill_masked(self.gate(inputs.gap, inputs).detach(), inputs.mask)
