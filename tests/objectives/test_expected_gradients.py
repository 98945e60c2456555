"""What a method expects: gradients on enumerated softmax problems, against those of KL divergences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from helpers.losses import DOUBLE, example, grad
from torch import Tensor

from sdar_pl import objectives as O


def expected_gradient(
    distillation: O.Distillation, theta: Tensor, q: Tensor, drawn: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """E[∇_θ loss] over y ~ ``drawn`` (None: on-policy, over p), and the trace of its covariance."""
    p = theta.softmax(0)
    drawn = p if drawn is None else drawn
    student = p.log()[:, None].requires_grad_()
    inputs = O.LossInputs(
        student_logprobs=student,
        mask=torch.ones_like(student),
        advantages=torch.zeros_like(student),
        turns=torch.zeros(len(p), 1).long(),
        teacher_logprobs=q.log()[:, None],
        total_tokens=1.0,
    )
    weight = grad(O.Objective(None, distillation), inputs)[:, 0]  # d loss / d log p(y), the chance of y not in it
    scores = torch.eye(len(p), dtype=DOUBLE) - p  # row y: ∇_θ log p(y)
    each = weight[:, None] * scores
    mean = (drawn[:, None] * each).sum(0)
    return mean, (drawn[:, None] * (each - mean).square()).sum()


def problem(seed: int = 1) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    theta = torch.randn(7, generator=g, dtype=DOUBLE)
    return theta, (theta + torch.randn(7, generator=g, dtype=DOUBLE)).softmax(0)


def weighted(theta: Tensor, w: Callable[[Tensor], Tensor], q: Tensor) -> Tensor:
    """−E[w(Δ)·∇log p]."""
    p = theta.softmax(0)
    return -(p[:, None] * w((q / p).log())[:, None] * (torch.eye(len(p), dtype=DOUBLE) - p)).sum(0)


def kl_gradient(theta: Tensor, q: Tensor, reverse: bool) -> Tensor:
    theta = theta.clone().requires_grad_()
    p = theta.softmax(0)
    kl = (p * (p / q).log()).sum() if reverse else (q * (q / p).log()).sum()
    return torch.autograd.grad(kl, theta)[0]


def test_sdar_expects_half_a_tanh() -> None:
    theta, q = problem()
    got, _ = expected_gradient(O.Distillation(coefficient=1.0), theta, q)
    torch.testing.assert_close(got, weighted(theta, lambda gap: 0.5 * torch.tanh(2.5 * gap), q))


def test_the_ungated_form_knows_no_teacher() -> None:
    theta, q = problem()
    half = O.Distillation(gate=O.ConstantGate(0.5), coefficient=1.0)
    for teacher in (q, q.flip(0)):
        got, _ = expected_gradient(half, theta, teacher)
        torch.testing.assert_close(got, torch.zeros(7, dtype=DOUBLE))
    inputs = example()
    assert inputs.teacher_logprobs is not None
    objective = O.Objective(distillation=O.Distillation(gate=O.ConstantGate(0.5)))
    assert torch.equal(
        grad(objective, inputs), grad(objective, replace(inputs, teacher_logprobs=inputs.teacher_logprobs.flip(1)))
    )


@pytest.mark.parametrize("estimator", [O.K3(importance=True), O.Signed()])
def test_skill_sd_and_signed_expect_the_reverse_kl(estimator: O.Estimator) -> None:
    theta, q = problem()
    got, _ = expected_gradient(O.Distillation(estimator, O.ConstantGate(1.0), coefficient=1.0), theta, q)
    torch.testing.assert_close(got, kl_gradient(theta, q, reverse=True))


def test_plain_k3_expects_the_forward_kl() -> None:
    theta, q = problem()
    got, _ = expected_gradient(O.Distillation(O.K3(), O.ConstantGate(1.0), coefficient=1.0), theta, q)
    torch.testing.assert_close(got, kl_gradient(theta, q, reverse=False))


class FlippedGate(O.GapGate):
    def __call__(self, gap: Tensor, inputs: O.LossInputs) -> Tensor:
        return super().__call__(-gap, inputs)


def test_a_flipped_sign_anti_distils() -> None:
    theta, q = problem()

    def kl_after(gate: O.Gate) -> float:
        at = theta.clone()
        for _ in range(50):
            at -= 0.1 * expected_gradient(O.Distillation(gate=gate, coefficient=1.0), at, q)[0]
        p = at.softmax(0)
        return float((p * (p / q).log()).sum())

    before = float((theta.softmax(0) * (theta.softmax(0) / q).log()).sum())
    assert kl_after(O.GapGate()) < 0.5 * before
    assert kl_after(O.CentredGapGate()) < 0.5 * before
    assert kl_after(FlippedGate()) > 1.5 * before


@pytest.mark.parametrize("seed", range(5))
def test_the_centred_gate_has_the_same_mean_and_less_variance(seed: int) -> None:
    theta, q = problem(seed)
    mean, variance = expected_gradient(O.Distillation(gate=O.GapGate(), coefficient=1.0), theta, q)
    centred, less = expected_gradient(O.Distillation(gate=O.CentredGapGate(), coefficient=1.0), theta, q)
    torch.testing.assert_close(centred, mean)
    assert less < variance
    # The nearer the teacher, the more of the raw gate is noise.
    near = (theta + 0.1 * (q.log() - theta)).softmax(0)
    _, variance = expected_gradient(O.Distillation(gate=O.GapGate(), coefficient=1.0), theta, near)
    _, less = expected_gradient(O.Distillation(gate=O.CentredGapGate(), coefficient=1.0), theta, near)
    assert less < 0.2 * variance


def entropy_after(gate: O.Gate, stale: int, chains: int = 64, steps: int = 120) -> float:
    """Mean entropy of softmax policies, as a share of what they began with. They sample four tokens for every ``stale``
    steps, and the teacher knows nothing: it is the policy that sampled them and some noise."""
    g = torch.Generator().manual_seed(0)
    theta = torch.zeros(chains, 5, dtype=DOUBLE, requires_grad=True)
    objective = O.Objective(None, O.Distillation(gate=gate, coefficient=1.0))
    for step in range(steps):
        logprobs = theta.log_softmax(1)
        if step % stale == 0:
            drawn = torch.multinomial(logprobs.detach().exp(), 4, replacement=True, generator=g)
            noise = 0.1 * torch.randn(drawn.shape, generator=g, dtype=DOUBLE)
            teacher = logprobs.detach().gather(1, drawn) + noise
        ones, student = torch.ones_like(teacher), logprobs.gather(1, drawn)
        inputs = O.LossInputs(student, ones, 0 * ones, 0 * drawn, teacher_logprobs=teacher, total_tokens=1.0)
        slope = torch.autograd.grad(objective(inputs).loss, theta)[0]
        theta = (theta - 0.3 * slope).detach().requires_grad_()
    entropy = torch.special.entr(theta.detach().softmax(1)).sum(1).mean()
    return float(entropy / torch.tensor(5.0).log())


def test_the_raw_gate_drifts_to_one_answer_where_the_teacher_knows_nothing() -> None:
    """With Δ about 0 every own token is pushed by ½, which has no mean, and yet chance alone lets one answer take all;
    sooner on stale tokens, which it pushes again. The centred gate hardly moves, stale or not."""
    raw, raw_stale = entropy_after(O.GapGate(), stale=1), entropy_after(O.GapGate(), stale=4)
    centred, centred_stale = entropy_after(O.CentredGapGate(), stale=1), entropy_after(O.CentredGapGate(), stale=4)
    assert raw < 0.7
    assert raw_stale < 0.5 * raw
    assert min(centred, centred_stale) > 0.95
