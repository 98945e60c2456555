"""Estimators of the distillation loss on sampled tokens. Those over the vocabulary are in divergences.py."""

from __future__ import annotations

from torch import Tensor

from sdar_pl.checks import at_least
from sdar_pl.objectives.functional import fill_masked, k3, skill_sd_terms
from sdar_pl.objectives.inputs import LossInputs


class Estimator:
    """Base: ``estimator(inputs, weight)`` gives the loss of each token [B, R]; ``weight`` [B, R] is the gate.

    ``top_k``: of how many of the teacher's likeliest tokens it wants ``student_top`` and ``teacher_top`` (0: neither).
    ``signed``: it also makes sense under a weight below 0.
    """

    top_k: int = 0
    signed: bool = False

    def __call__(self, inputs: LossInputs, weight: Tensor) -> Tensor:
        raise NotImplementedError


class Likelihood(Estimator):
    """g·(log π_T − log π_θ), gradient −g·∇log π_θ: gated likelihood of the student's own samples (SDAR, 2605.15155)."""

    signed = True

    def __call__(self, inputs: LossInputs, weight: Tensor) -> Tensor:
        assert inputs.teacher_logprobs is not None
        return weight * fill_masked(inputs.teacher_logprobs.detach() - inputs.student_logprobs, inputs.mask)


class Signed(Estimator):
    """−g·sg(Δ)·log π_θ: pushes up what the teacher endorses and down what it rejects.

    With g = 1 its on-policy expectation is the reverse-KL gradient (on-policy distillation as a policy gradient).
    ``clip`` bounds |Δ|; None leaves it free.
    """

    def __init__(self, clip: float | None = None) -> None:
        self.clip = at_least("model.objective.distillation.estimator.clip", clip, 0)

    def __call__(self, inputs: LossInputs, weight: Tensor) -> Tensor:
        gap = inputs.gap if self.clip is None else inputs.gap.clamp(-self.clip, self.clip)
        return -weight * gap * fill_masked(inputs.student_logprobs, inputs.mask)


class K3(Estimator):
    """g·k3 with k3 = exp(−ℓ) − 1 + ℓ, ℓ = log π_θ − log π_T.

    ``importance`` multiplies by ρ = π_θ/π_old with its gradient (Skill-SD): only then is the expected gradient that
    of the reverse KL. Without it, the gradient (1 − exp(−ℓ))·∇log π_θ is that of the *forward* KL(π_T ‖ π_θ).
    """

    def __init__(self, importance: bool = False) -> None:
        self.importance = importance

    def __call__(self, inputs: LossInputs, weight: Tensor) -> Tensor:
        assert inputs.teacher_logprobs is not None
        if self.importance:
            return weight * skill_sd_terms(
                inputs.student_logprobs, inputs.teacher_logprobs, inputs.behaviour, inputs.mask
            )
        return weight * k3(fill_masked(inputs.student_logprobs - inputs.teacher_logprobs.detach(), inputs.mask))
