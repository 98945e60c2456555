"""Gates: how much the teacher's word counts on each token. A gate is detached; it never carries a gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from sdar_pl.checks import at_least
from sdar_pl.errors import UserError
from sdar_pl.objectives.functional import fill_masked
from sdar_pl.objectives.inputs import LossInputs


class Gate:
    """Base: ``gate(gap, inputs)`` gives weights [B, R] for the detached ``gap`` [B, R].

    ``signed``: they may be below 0, to push the sampled token down.
    """

    needs_entropy: bool = False
    signed: bool = False

    def __call__(self, gap: Tensor, inputs: LossInputs) -> Tensor:
        raise NotImplementedError


class GapGate(Gate):
    """σ(βΔ): strong where the teacher endorses the token, soft where it rejects it (SDAR's default, 2605.15155)."""

    def __init__(self, beta: float = 5.0) -> None:
        self.beta = at_least("model.objective.distillation.gate.beta", beta, 0)

    def __call__(self, gap: Tensor, inputs: LossInputs) -> Tensor:
        return torch.sigmoid(self.beta * gap)


class CentredGapGate(GapGate):
    """σ(βΔ) − ½ = ½·tanh(βΔ/2). Ours: on-policy E[∇log π] = 0, so the ½ inside the gap gate is only variance."""

    signed = True

    def __call__(self, gap: Tensor, inputs: LossInputs) -> Tensor:
        return 0.5 * torch.tanh(0.5 * self.beta * gap)


class ConstantGate(Gate):
    """The same weight everywhere; ½ is the paper's GRPO+OPSD, whose expected gradient holds no teacher information."""

    def __init__(self, value: float = 0.5) -> None:
        self.value = at_least("model.objective.distillation.gate.value", value, 0)

    def __call__(self, gap: Tensor, inputs: LossInputs) -> Tensor:
        return torch.full_like(gap, self.value)


def entropy_of(inputs: LossInputs) -> Tensor:
    """The student's token entropies [B, R] in nats, detached; raises UserError if the trainer gave none."""
    if inputs.entropy is None:
        raise UserError(
            "model.objective.distillation.gate: needs token entropies; give LossInputs.entropy, or use GapGate"
        )
    return fill_masked(inputs.entropy.detach(), inputs.mask)


class EntropyGate(Gate):
    """σ(βh), h the student's entropy (2605.15155, appendix). Raw, it is never below ½.

    ``normalise`` (our choice, no source states one) takes 1 − 2e^{−h} ∈ [−1, 1) in place of h: the gate is ½ at one
    bit of uncertainty, below it where the student is sure. It needs no statistics of the batch.
    """

    needs_entropy = True

    def __init__(self, beta: float = 5.0, normalise: bool = False) -> None:
        self.beta = at_least("model.objective.distillation.gate.beta", beta, 0)
        self.normalise = normalise

    def __call__(self, gap: Tensor, inputs: LossInputs) -> Tensor:
        entropy = entropy_of(inputs)
        return torch.sigmoid(self.beta * (1 - 2 * torch.exp(-entropy) if self.normalise else entropy))


class SoftOrGate(Gate):
    """σ(β[1 − (1 − h)(1 − Δ)]): uncertain student *or* endorsing teacher (2605.15155, appendix).

    Raw, its slope in Δ is 1 − h and turns negative where the entropy exceeds 1 nat. ``normalise`` (our choice) takes
    1 − e^{−h} ∈ [0, 1) for h and tanh Δ for Δ, so that the gate always rises with the teacher's word.
    """

    needs_entropy = True

    def __init__(self, beta: float = 5.0, normalise: bool = False) -> None:
        self.beta = at_least("model.objective.distillation.gate.beta", beta, 0)
        self.normalise = normalise

    def __call__(self, gap: Tensor, inputs: LossInputs) -> Tensor:
        entropy = entropy_of(inputs)
        if self.normalise:
            entropy, gap = 1 - torch.exp(-entropy), torch.tanh(gap)
        return torch.sigmoid(self.beta * (1 - (1 - entropy) * (1 - gap)))
