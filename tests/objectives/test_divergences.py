"""Divergences over the vocabulary: against brute force, and what lumping the tail may and may not do."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdar_pl import objectives as O
from sdar_pl.errors import UserError
from sdar_pl.modeling.logprobs import token_logprobs
from sdar_pl.objectives.divergences import Kind, divergence_terms

DOUBLE = torch.float64
KINDS: tuple[Kind, ...] = ("reverse-kl", "forward-kl", "js")
WORDS = 13  # of the vocabulary


def problem(rows: int = 5, length: int = 4, spread: float = 1.5) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [B, R, V] of student (with gradient) and teacher, and a mask with a row of no tokens."""
    g = torch.Generator().manual_seed(3)
    teacher = 2 * torch.randn(rows, length, WORDS, generator=g, dtype=DOUBLE)
    student = teacher + spread * torch.randn(rows, length, WORDS, generator=g, dtype=DOUBLE)
    lengths = torch.tensor([4, 1, 0, 3, 2])[:rows]
    return student.requires_grad_(), teacher, (torch.arange(length) < lengths[:, None]).to(DOUBLE)


def outcomes(student: Tensor, teacher: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Log-probs [B, R, k + 1] as the trainer makes them."""

    def seen(logits: Tensor, top: Tensor | int) -> Any:
        return token_logprobs(logits.flatten(0, 1), nn.Identity(), torch.zeros(flat, dtype=torch.long), top=top)

    flat = student.shape[0] * student.shape[1]
    theirs = seen(teacher, k)
    ours = seen(student, theirs.top_tokens)
    shape = (*student.shape[:2], -1)
    return ours.top.view(shape), theirs.top.view(shape)


def brute(p: Tensor, q: Tensor, kind: Kind) -> Tensor:
    """Of probabilities [B, R, K]."""
    if kind == "js":
        m = (p + q) / 2
        return (brute(p, m, "reverse-kl") + brute(q, m, "reverse-kl")) / 2
    return (p * (p / q).log()).sum(-1) if kind == "reverse-kl" else (q * (q / p).log()).sum(-1)


def lumped(logits: Tensor, chosen: Tensor) -> Tensor:
    p = logits.softmax(-1)
    inside = p.gather(-1, chosen)
    return torch.cat([inside, 1 - inside.sum(-1, keepdim=True)], -1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 4, 12, 13, 1000])
def test_values_and_gradients_are_those_of_brute_force(kind: Kind, k: int) -> None:
    """With some tokens and the rest, and with the whole vocabulary (13 and more)."""
    student, teacher, mask = problem()
    got = divergence_terms(*outcomes(student, teacher, k), mask, kind=kind)
    p, q = student.softmax(-1), teacher.softmax(-1)
    if k < WORDS:
        chosen = teacher.topk(k).indices
        p, q = lumped(student, chosen), lumped(teacher, chosen)
    wanted = mask * brute(p, q, kind)
    torch.testing.assert_close(got, wanted, atol=1e-12, rtol=1e-10)
    weight = torch.rand(mask.shape, dtype=DOUBLE)
    ours, theirs = (torch.autograd.grad((weight * x).sum(), student)[0] for x in (got, wanted))
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-9)
    assert ours[mask == 0].abs().max() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_differences(kind: Kind) -> None:
    student, teacher, mask = problem(2, 2)
    assert torch.autograd.gradcheck(
        lambda logits: divergence_terms(*outcomes(logits, teacher, 3), mask, kind=kind), (student,)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_more_tokens_come_nearer_from_below(kind: Kind) -> None:
    student, teacher, mask = problem()
    real = mask > 0
    exact = brute(student.softmax(-1), teacher.softmax(-1), kind)[real]
    before = torch.zeros_like(exact)
    for k in range(1, WORDS + 1):
        got = divergence_terms(*outcomes(student, teacher, k), mask, kind=kind)[real]
        assert (got >= before - 1e-14).all()
        assert (got <= exact + 1e-14).all()
        before = got
    torch.testing.assert_close(before, exact)
    assert kind != "js" or (exact < math.log(2)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 4, 13])
def test_equals_have_nothing_to_learn(kind: Kind, k: int) -> None:
    """Exactly: a row without privileged context changes no weight, in float32 either."""
    for dtype in (torch.float32, DOUBLE):
        _, teacher, mask = problem()
        student = teacher.to(dtype).requires_grad_()
        terms = divergence_terms(*outcomes(student, teacher.to(dtype), k), mask.to(dtype), kind=kind)
        assert (terms == 0).all()
        (gradient,) = torch.autograd.grad(terms.sum(), student)
        assert (gradient == 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("near", [1e-4, 1e-2, 1.0, 30.0])
def test_float32_is_good_enough(kind: Kind, near: float) -> None:
    """For near twins, and for opposites with tails of e^-100, which 1 − Σ could not tell from nothing."""
    student, teacher, mask = problem(spread=near)
    student, teacher = (student * (1 + near)).detach().float(), (teacher * (1 + near)).float()
    exact_student, thin = student.double().requires_grad_(), student.clone().requires_grad_()
    exact = divergence_terms(*outcomes(exact_student, teacher.double(), 4), mask, kind=kind)
    got = divergence_terms(*outcomes(thin, teacher, 4), mask.float(), kind=kind)
    assert (got >= -1e-7).all()
    torch.testing.assert_close(got.double(), exact, atol=1e-7, rtol=1e-4)
    (ours,), (theirs,) = (torch.autograd.grad(x.sum(), y) for x, y in ((got, thin), (exact, exact_student)))
    torch.testing.assert_close(ours.double(), theirs, atol=3e-7, rtol=1e-4)


# ---------------------------------------------------------------------- as an estimator


def inputs(k: int = 4) -> O.LossInputs:
    """Off-policy by a little; ``student`` and ``student_top`` hang on the same logits."""
    logits, teacher, mask = problem()
    chosen = torch.randint(WORDS, (*mask.shape, 1), generator=torch.Generator().manual_seed(0))
    student = logits.log_softmax(-1).gather(-1, chosen)[..., 0]
    student_top, teacher_top = outcomes(logits, teacher, k)
    return O.LossInputs(
        student_logprobs=student,
        mask=mask,
        advantages=torch.linspace(-1, 1, len(mask), dtype=DOUBLE)[:, None].expand_as(mask),
        turns=torch.zeros_like(mask).long(),
        old_logprobs=student.detach() + 0.1,
        teacher_logprobs=teacher.log_softmax(-1).gather(-1, chosen)[..., 0],
        student_top=student_top,
        teacher_top=teacher_top,
    )


def objective(kind: Kind = "reverse-kl", coefficient: float = 0.5, policy_loss: bool = True) -> O.Objective:
    made = O.Distillation(O.TopKDivergence(kind), coefficient=coefficient)
    return O.Objective(O.ClippedPolicyLoss() if policy_loss else None, made)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gate_weighs_each_token(kind: Kind) -> None:
    given = inputs()
    assert given.student_top is not None
    assert given.teacher_top is not None
    out = objective(kind, 0.3, policy_loss=False)(given)
    gate = torch.sigmoid(5 * given.gap)
    terms = divergence_terms(given.student_top, given.teacher_top, given.mask, kind=kind)
    torch.testing.assert_close(out.loss, 0.3 * (gate * terms).sum() / given.mask.sum())
    assert torch.equal(out.tokens["gate"], gate * given.mask)
    # The gate is a weight and nothing else: no gradient reaches it, nor the sampled token's own log-prob.
    assert torch.autograd.grad(out.loss, given.student_logprobs, retain_graph=True, allow_unused=True)[0] is None
    closed = replace(given, student_logprobs=given.student_logprobs.detach() + 50)
    assert objective(kind, 0.3, policy_loss=False)(closed).loss.abs() < 1e-50


def test_without_weight_it_is_grpo_bit_by_bit() -> None:
    given = inputs()
    leaves = [given.student_logprobs, given.student_top]
    never = O.Distillation(O.TopKDivergence(), schedule=O.Constant(0.0))
    for silent in (objective(coefficient=0.0), O.Objective(distillation=never)):
        ours, theirs = silent(given), O.GRPO()(given)
        assert torch.equal(ours.loss, theirs.loss)
        assert ours.terms["loss/distill"] > 0
        mine = torch.autograd.grad(ours.loss, leaves, retain_graph=True, allow_unused=True)
        plain = torch.autograd.grad(theirs.loss, leaves, retain_graph=True, allow_unused=True)
        assert mine[1] is plain[1] is None
        assert torch.equal(mine[0], plain[0])


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_sum_to_the_step(kind: Kind) -> None:
    given, chosen = inputs(), objective(kind)
    total = replace(given, total_tokens=float(given.mask.sum()), total_rows=4.0)
    names = (
        "student_logprobs",
        "mask",
        "advantages",
        "turns",
        "old_logprobs",
        "teacher_logprobs",
        "student_top",
        "teacher_top",
    )
    parts = []
    for rows in (slice(0, 1), slice(1, 3), slice(3, 5)):
        cut: dict[str, Any] = {name: getattr(total, name)[rows] for name in names}
        parts.append(chosen(replace(total, **cut)).loss)
    torch.testing.assert_close(sum(parts), chosen(given).loss, atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_masked_places_leak_nothing(kind: Kind, bad: float) -> None:
    given = inputs()
    assert given.student_top is not None
    assert given.teacher_top is not None
    leaf = given.student_top.detach()
    spoiled = torch.where(given.mask[..., None] > 0, leaf, bad)
    results = []
    for student_top in (leaf, spoiled):
        student_top = student_top.clone().requires_grad_()
        teacher_top = torch.where(given.mask[..., None] > 0, given.teacher_top, bad)
        loss = objective(kind, policy_loss=False)(replace(given, student_top=student_top, teacher_top=teacher_top)).loss
        results.append((loss, torch.autograd.grad(loss, student_top)[0]))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert results[0][1][given.mask == 0].abs().max() == 0


def test_only_the_student_learns() -> None:
    given = inputs()
    assert given.teacher_top is not None
    teacher_top = given.teacher_top.clone().requires_grad_()
    out = objective()(replace(given, teacher_top=teacher_top))
    assert torch.autograd.grad(out.loss, teacher_top, allow_unused=True)[0] is None
    assert not any(x.requires_grad for x in (*out.terms.values(), *out.tokens.values()))


def test_learning_from_it_reaches_the_teacher() -> None:
    """For any divergence, also of some tokens and the rest; in the tail, only its mass is learnt."""
    for kind in KINDS:
        student, teacher, mask = problem(1, 2)
        for k in (3, WORDS):
            at = student.detach().clone().requires_grad_()
            optimizer = torch.optim.Adam([at], lr=0.1)
            for _ in range(300):
                optimizer.zero_grad()
                divergence_terms(*outcomes(at, teacher, k), mask, kind=kind).sum().backward()
                optimizer.step()
            chosen = teacher.topk(k).indices
            torch.testing.assert_close(lumped(at, chosen), lumped(teacher, chosen), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: O.TopKDivergence(k=0), "distillation.estimator.k: 0; must be ≥ 1"),
        (lambda: O.TopKDivergence(k=-3), "estimator.k: -3"),
        (lambda: O.TopKDivergence("sideways"), "'sideways'; must be one of reverse-kl, forward-kl, js"),  # type: ignore[arg-type]
        (lambda: objective()(replace(inputs(), teacher_top=None)), "teacher's likeliest tokens.*Likelihood"),
        (lambda: objective()(replace(inputs(), student_top=None)), "student_top"),
        (lambda: objective().validate(context=False), "set data.context"),
    ],
)
def test_nonsense_is_refused_in_one_line(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_how_many_tokens_are_wanted() -> None:
    assert O.GRPO().teacher_top_k == O.SDAR().teacher_top_k == 0
    assert objective().teacher_top_k == 64
    everything = O.Objective(distillation=O.Distillation(O.TopKDivergence(k=None)))
    assert everything.teacher_top_k > 10**9
    everything.validate()
