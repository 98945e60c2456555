"""The gap gate and the centred gate have the same expected gradient under three conditions; each is needed.

The difference of the two gates is ½ on every token: its expected gradient is −½·E[∇log π], on enumerated problems.
"""

from __future__ import annotations

import pytest
import torch
from helpers.losses import DOUBLE
from test_expected_gradients import expected_gradient, problem
from torch import Tensor

from sdar_pl import objectives as O

GATES = (O.GapGate(), O.CentredGapGate())


def apart(theta: Tensor, q: Tensor, drawn: Tensor | None = None) -> Tensor:
    """The gap gate's expected gradient minus the centred gate's, over y ~ ``drawn`` (None: on-policy)."""
    raw, centred = (expected_gradient(O.Distillation(gate=gate, coefficient=1.0), theta, q, drawn)[0] for gate in GATES)
    return raw - centred


ZERO = torch.zeros(7, dtype=DOUBLE)


def test_stale_tokens() -> None:
    theta, q = problem()
    torch.testing.assert_close(apart(theta, q), ZERO)
    old = (theta + torch.linspace(-1, 1, 7, dtype=DOUBLE)).softmax(0)
    difference = apart(theta, q, old)
    torch.testing.assert_close(difference, -0.5 * (old - theta.softmax(0)))
    assert difference.abs().max() > 0.02


def kept(p: Tensor, successes: int) -> Tensor:
    """The distribution of answers in groups of two that dynamic sampling keeps: one of the first ``successes`` answers
    succeeds, the other fails."""
    success = torch.arange(len(p)) < successes
    pairs = p[:, None] * p * (success[:, None] != success)
    return (pairs.sum(0) + pairs.sum(1)) / (2 * pairs.sum())


def test_selected_groups() -> None:
    theta, q = problem()
    p = theta.softmax(0)
    difference = apart(theta, q, kept(p, 2))
    torch.testing.assert_close(difference, -0.5 * (kept(p, 2) - p))
    assert difference.abs().max() > 0.02
    # Selection is harmless in one case: success and failure are equally likely.
    even = torch.tensor([0.2, 0.3, 0.1, 0.1, 0.1, 0.1, 0.1], dtype=DOUBLE)
    torch.testing.assert_close(apart(even.log(), q, kept(even, 2)), ZERO)


@pytest.mark.parametrize(("aggregation", "equal"), [("seq-mean-token-sum", True), ("token-mean", False)])
def test_a_random_number_of_tokens(aggregation: O.functional.Aggregation, equal: bool) -> None:
    """A response ends after its first token (0) or has a second one. Divided by the number of its tokens, short
    responses have larger gradients, so that E[∇log π / tokens] is not 0: the ½ pushes towards them."""
    g = torch.Generator().manual_seed(0)
    first = torch.randn(2, generator=g, dtype=DOUBLE, requires_grad=True)  # end or go on
    second = torch.randn(3, generator=g, dtype=DOUBLE, requires_grad=True)

    def expected(gate: O.Gate) -> Tensor:
        objective = O.Objective(None, O.Distillation(gate=gate, coefficient=1.0), aggregation=aggregation)
        total = torch.zeros(5, dtype=DOUBLE)
        for response in ([0], [1, 0], [1, 1], [1, 2]):
            logits = (first, second)[: len(response)]
            student = torch.stack([x.log_softmax(0)[y] for x, y in zip(logits, response, strict=True)])[None]
            ones = torch.ones_like(student)
            teacher = student.detach() + torch.tensor([[0.3, -0.4]], dtype=DOUBLE)[:, : len(response)]
            inputs = O.LossInputs(student, ones, 0 * ones, 0 * ones.long(), teacher_logprobs=teacher)
            slopes = torch.autograd.grad(objective(inputs).loss, (first, second), allow_unused=True)
            slope = [torch.zeros_like(x) if d is None else d for x, d in zip((first, second), slopes, strict=True)]
            total += student.detach().sum().exp() * torch.cat(slope)
        return total

    end = float(first.detach().softmax(0)[0])
    push = 0.0 if equal else 0.25 * end * (1 - end)  # −½·[end·(1 − end) − ½·(1 − end)·end] on the logit of the end
    raw, centred = map(expected, GATES)
    torch.testing.assert_close(raw - centred, torch.tensor([-push, push, 0, 0, 0], dtype=DOUBLE))
    assert equal or push > 0.02
