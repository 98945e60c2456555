"""Estimators of the distillation loss on sampled tokens. Those over the vocabulary are in divergences.py."""

from __future__ import annotations

from torch import Tensor

from sdar_pl.checks import at_least
from sdar_pl.objectives.functional import fill_masked, k3, likelihood_terms, log_difference, skill_sd_terms
from sdar_pl.objectives.inputs import LossInputs


class Estimator:
    """Base class: ``estimator(inputs, weight)`` returns the loss of each token [B, R]; ``weight`` [B, R] is the gate.

    ``top_k`` is the number of the teacher's likeliest tokens whose log-probs (``student_top``, ``teacher_top``) the
    estimator needs. ``signed`` says that it is also meaningful under a weight below 0.
    """

    top_k: int = 0
    signed: bool = False

    def __call__(self, inputs: LossInputs, weight: Tensor) -> Tensor:
        raise NotImplementedError


class Likelihood(Estimator):
    """Gated likelihood of the student's own samples: g·(log π_T − log π_θ), gradient −g·∇log π_θ (SDAR, 2605.15155)."""

    signed = True

    def __call__(self, inputs: LossInputs, weight: Tensor) -> Tensor:
        assert inputs.teacher_logprobs is not None
        return likelihood_terms(inputs.student_logprobs, inputs.teacher_logprobs, inputs.mask, gate=weight)


class Signed(Estimator):
    """Signed likelihood −g·sg(Δ)·log π_θ: pushes up tokens that the teacher endorses and down those that it rejects.

    With g = 1 the expected gradient is that of the reverse KL (on-policy distillation as policy gradient), under the
    three conditions at the head of gates.py.

    Args:
        clip: bound ≥ 0 on |Δ|, in nats; null: no bound.
    """

    def __init__(self, clip: float | None = None) -> None:
        self.clip = at_least("model.objective.distillation.estimator.clip", clip, 0)

    def __call__(self, inputs: LossInputs, weight: Tensor) -> Tensor:
        gap = inputs.gap if self.clip is None else inputs.gap.clamp(-self.clip, self.clip)
        return -weight * gap * fill_masked(inputs.student_logprobs, inputs.mask)


class K3(Estimator):
    """The k3 estimator g·(exp(−ℓ) − 1 + ℓ) of the KL divergence, ℓ = log π_θ − log π_T.

    Args:
        importance: multiply by ρ = π_θ/π_old with its gradient (Skill-SD), which makes the expected gradient that of
            the reverse KL(π_θ ‖ π_T). Without it the gradient is (1 − exp(−ℓ))·∇log π_θ, in expectation that of the
            *forward* KL(π_T ‖ π_θ). Both under the three conditions at the head of gates.py; ρ lifts the second.
    """

    def __init__(self, importance: bool = False) -> None:
        self.importance = importance

    def __call__(self, inputs: LossInputs, weight: Tensor) -> Tensor:
        student, teacher, mask = inputs.student_logprobs, inputs.teacher_logprobs, inputs.mask
        assert teacher is not None
        if self.importance:
            return weight * skill_sd_terms(student, teacher, inputs.behaviour, mask)
        return weight * k3(log_difference(student, teacher, mask))
