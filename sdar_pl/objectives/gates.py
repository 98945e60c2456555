"""Gates: the weight of the teacher's signal on each token. A gate is detached and never carries a gradient.

E[∇log π_θ] = 0, so that a constant part of a gate has no expected gradient, under three conditions:

1. The loss divides by a constant. ``token-mean`` divides by the number of tokens that happened to be sampled,
   ``seq-mean-token-mean`` by each row's; ``seq-mean-token-sum`` with one row an episode divides by a constant.
2. The present weights sampled the tokens: the first optimizer step of an iteration. Later steps train on stale tokens.
3. No group was selected by its outcome, as dynamic sampling does (``data.max_refills``).

tests/objectives/test_expected_gradients.py shows for each of them what happens without it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdar_pl.checks import at_least
from sdar_pl.errors import UserError
from sdar_pl.objectives.functional import fill_masked, sigmoid_gate
from sdar_pl.objectives.inputs import LossInputs

KEY = "model.objective.distillation.gate"


class Gate:
    """Base class: ``gate(gap, inputs)`` returns weights [B, R] for the detached ``gap`` [B, R].

    ``signed`` says that weights can be below 0, which pushes the sampled token down.
    """

    signed: bool = False

    def __call__(self, gap: Tensor, inputs: LossInputs) -> Tensor:
        raise NotImplementedError


class GapGate(Gate):
    """SDAR's gate σ(βΔ): near 1 where the teacher endorses the token, near 0 where it rejects it (2605.15155).

    Args:
        beta: slope β ≥ 0, in 1/nat; 0 is ½ everywhere. 5 in the paper.
    """

    def __init__(self, beta: float = 5.0) -> None:
        self.beta = at_least(f"{KEY}.beta", beta, 0)

    def __call__(self, gap: Tensor, inputs: LossInputs) -> Tensor:
        return sigmoid_gate(gap, beta=self.beta)


class CentredGapGate(GapGate):
    """Centred gap gate σ(βΔ) − ½ = ½·tanh(βΔ/2) (ours). The same expected gradient as the gap gate's under the three
    conditions at the head of gates.py, where the ½ is variance alone.

    Args:
        beta: slope β ≥ 0, in 1/nat; 0 is 0 everywhere.
    """

    signed = True

    def __call__(self, gap: Tensor, inputs: LossInputs) -> Tensor:
        return 0.5 * torch.tanh(0.5 * self.beta * gap)


class ConstantGate(Gate):
    """Constant gate. With ½ (GRPO+OPSD in the paper's code) the gradient of Likelihood holds no teacher information.

    Args:
        value: the weight of every token, ≥ 0.
    """

    def __init__(self, value: float = 0.5) -> None:
        self.value = at_least(f"{KEY}.value", value, 0)

    def __call__(self, gap: Tensor, inputs: LossInputs) -> Tensor:
        return torch.full_like(gap, self.value)


def entropy_of(inputs: LossInputs) -> Tensor:
    """The student's token entropies [B, R] in nats, detached. Raises UserError if ``inputs`` has none."""
    if inputs.entropy is None:
        raise UserError(f"{KEY}: an entropy gate needs token entropies; give LossInputs.entropy, or use GapGate")
    return fill_masked(inputs.entropy.detach(), inputs.mask)


class EntropyGate(Gate):
    """Entropy gate σ(βh) of the student's entropy h (2605.15155, appendix). With the raw h it is never below ½.

    Args:
        beta: slope β ≥ 0, in 1/nat (with ``normalise``: without unit).
        normalise: replace h by 1 − 2e^(−h), which is in [−1, 1): the gate is ½ at one bit of entropy and lower where
            the student is more certain. Our choice, no source states one; it needs no statistics of the batch.
    """

    def __init__(self, beta: float = 5.0, normalise: bool = False) -> None:
        self.beta = at_least(f"{KEY}.beta", beta, 0)
        self.normalise = normalise

    def __call__(self, gap: Tensor, inputs: LossInputs) -> Tensor:
        entropy = entropy_of(inputs)
        return torch.sigmoid(self.beta * (1 - 2 * torch.exp(-entropy) if self.normalise else entropy))


class SoftOrGate(Gate):
    """Soft-OR gate σ(β[1 − (1 − h)(1 − Δ)]): uncertain student *or* endorsing teacher (2605.15155, appendix).

    With raw h and Δ, the slope in Δ is 1 − h, which is negative where the entropy exceeds 1 nat.

    Args:
        beta: slope β ≥ 0.
        normalise: replace h by 1 − e^(−h), which is in [0, 1), and Δ by tanh Δ: the gate then always rises with Δ. Our
            choice.
    """

    def __init__(self, beta: float = 5.0, normalise: bool = False) -> None:
        self.beta = at_least(f"{KEY}.beta", beta, 0)
        self.normalise = normalise

    def __call__(self, gap: Tensor, inputs: LossInputs) -> Tensor:
        entropy = entropy_of(inputs)
        if self.normalise:
            entropy, gap = 1 - torch.exp(-entropy), torch.tanh(gap)
        return torch.sigmoid(self.beta * (1 - (1 - entropy) * (1 - gap)))
