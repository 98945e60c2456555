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
    """Auxiliary loss: λ·schedule(iteration)·(mean over tokens of the gated estimator). Defaults: SDAR (2605.15155).

    Args:
        estimator: the loss of each token; Likelihood, Signed, K3 or TopKDivergence.
        gate: the detached weight of each token.
        coefficient: λ ≥ 0, 0.01 in the paper. With 0 the term is reported and not trained on.
        schedule: factor on λ at each iteration.
    """

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
        """λ·schedule at an iteration."""
        return self.coefficient * self.schedule(iteration)

    def weights(self, inputs: LossInputs) -> Tensor:
        """The gate [B, R], detached, 0 where masked."""
        return fill_masked(self.gate(inputs.gap, inputs).detach(), inputs.mask)
