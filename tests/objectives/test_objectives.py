"""Objectives: what each method must be by algebra – on enumerated softmax problems, bit for bit, and when split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import CONFIGS
from torch import Tensor

from sdar_pl import objectives as O
from sdar_pl.errors import UserError

DOUBLE = torch.float64
METHODS = sorted((CONFIGS / "objectives").glob("*.yaml"))


def example(rows: int = 6, seed: int = 0, dtype: torch.dtype = torch.float32) -> O.LossInputs:
    """Random rows of very different lengths (one is empty), two or three turns a row, off-policy by a little."""
    g = torch.Generator().manual_seed(seed)
    length = 9

    def logprobs(like: Tensor | None = None, spread: float = 0.3) -> Tensor:
        if like is None:
            return -torch.rand(rows, length, generator=g, dtype=dtype) * 3
        return like + spread * torch.randn(rows, length, generator=g, dtype=dtype)

    student = logprobs()
    lengths = torch.tensor([9, 1, 0, 4, 6, 8])[:rows]
    mask = (torch.arange(length) < lengths[:, None]).to(dtype)
    advantages = torch.randn(rows, 1, generator=g, dtype=dtype).expand(rows, length)
    return O.LossInputs(
        student_logprobs=student.requires_grad_(),
        mask=mask,
        advantages=advantages,
        turns=(torch.arange(length) // 4).expand(rows, length),
        old_logprobs=logprobs(student.detach(), 0.2),
        teacher_logprobs=logprobs(student.detach(), 0.8),
        reference_logprobs=logprobs(student.detach()),
        entropy=torch.rand(rows, length, generator=g, dtype=dtype) * 2,
        student_top=torch.randn(rows, length, 5, generator=g, dtype=dtype).log_softmax(-1),
        teacher_top=torch.randn(rows, length, 5, generator=g, dtype=dtype).log_softmax(-1),
        iteration=3,
        episodes=torch.tensor([0, 0, 1, 1, 2, 3])[:rows],
        groups=torch.tensor([0, 0, 0, 0, 1, 1])[:rows],
    )


def grad(objective: O.Objective, inputs: O.LossInputs) -> Tensor:
    return torch.autograd.grad(objective(inputs).loss, inputs.student_logprobs)[0]


def assert_same_bits(a: O.Objective, b: O.Objective, inputs: O.LossInputs) -> None:
    assert torch.equal(a(inputs).loss, b(inputs).loss)
    assert torch.equal(grad(a, inputs), grad(b, inputs))


def shaped(shaper: O.AdvantageShaper, inputs: O.LossInputs) -> Tensor:
    return O.Objective(shaper=shaper).shape(inputs)


# Enumerated one-token problems: a policy p = softmax(θ), a teacher q; every token is one row.


def expected_gradient(distillation: O.Distillation, theta: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """E[∇_θ loss] over y ~ p on-policy, and the trace of its covariance."""
    p = theta.softmax(0)
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
    mean = (p[:, None] * each).sum(0)
    return mean, (p[:, None] * (each - mean).square()).sum()


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


# Bit for bit.


def test_lambda_zero_is_grpo_and_still_reports() -> None:
    inputs = example()
    for step_old in (inputs, replace(inputs, old_logprobs=None)):
        assert_same_bits(
            O.SDAR(coefficient=0.0, reference_coefficient=0.01), O.GRPO(reference_coefficient=0.01), step_old
        )
    never = O.SDAR(schedule=O.Constant(0.0))
    assert_same_bits(never, O.GRPO(), inputs)
    out = never(inputs)
    assert {"gap", "gate"} <= set(out.tokens)
    assert out.tokens["weight"].abs().max() == 0
    assert out.terms["loss/distill"] != 0
    assert inputs.teacher_logprobs is not None
    broken = replace(
        inputs, teacher_logprobs=torch.full_like(inputs.teacher_logprobs, -torch.inf)
    )  # 0 · ∞ would not be 0
    assert_same_bits(O.SDAR(coefficient=0.0), O.GRPO(), broken)


def test_shapers_that_do_nothing_are_grpo() -> None:
    inputs = example()
    idle: list[O.AdvantageShaper] = [
        O.RLSDShaper(mix=0.0),
        O.RLSDShaper(schedule=O.Linear(1.0, 0.0, 3)),
        O.OPIDShaper(coefficient=0.0),
        O.AgentOPSDShaper(mix=0.0),
        O.GRSDShaper(coefficient=0.0),
    ]
    for shaper in idle:
        ready = replace(inputs, advantages=shaped(shaper, inputs), shaped=True)
        assert torch.equal(O.GRPO()(ready).loss, O.GRPO()(inputs).loss), shaper
        if not shaper.across_rows:
            assert_same_bits(O.Objective(shaper=shaper), O.GRPO(), inputs)


def test_without_context_every_shaper_is_grpo() -> None:
    inputs = example()
    same = replace(inputs, teacher_logprobs=inputs.old_logprobs)  # a teacher who reads what the student reads
    for shaper in (O.RLSDShaper(mix=0.3), O.OPIDShaper(0.1), O.AgentOPSDShaper(), O.GRSDShaper()):
        assert torch.equal(shaped(shaper, replace(inputs, teacher_logprobs=None)), inputs.advantages)
        assert torch.equal(shaped(shaper, same) * inputs.mask, inputs.advantages * inputs.mask), shaper
    assert_same_bits(O.Objective(shaper=O.RLSDShaper()), O.GRPO(), same)
    assert_same_bits(O.Objective(shaper=O.RLSDShaper()), O.GRPO(), replace(inputs, teacher_logprobs=None))
    assert_same_bits(O.SDAR(), O.GRPO(), replace(inputs, teacher_logprobs=None))


def test_no_old_means_on_policy() -> None:
    inputs = example()
    explicit = replace(inputs, old_logprobs=inputs.student_logprobs.detach())
    for objective in (O.SDAR(), O.Objective(O.CISPOLoss()), O.Objective(distillation=O.Distillation(O.K3(True)))):
        assert_same_bits(objective, objective, explicit)
        assert torch.equal(grad(objective, explicit), grad(objective, replace(inputs, old_logprobs=None)))


# The objective as a whole.

ALL: dict[str, O.Objective] = {
    "grpo": O.GRPO(reference_coefficient=0.1, entropy_coefficient=0.01),
    "sdar": O.SDAR(coefficient=0.5, reference_coefficient=0.1),
    "entropy": O.SDAR(gate="entropy", coefficient=0.5),
    "soft-or": O.SDAR(gate="soft-or", normalise=True, coefficient=0.5),
    "centred": O.SDAR(gate="centred", coefficient=0.5, aggregation="seq-mean-token-mean"),
    "skill-sd": O.Objective(distillation=O.Distillation(O.K3(True), O.ConstantGate(1.0), 0.5)),
    "signed": O.Objective(distillation=O.Distillation(O.Signed(clip=1.0), O.ConstantGate(1.0), 0.5)),
    "opsd": O.Objective(None, O.Distillation(coefficient=0.5)),
    "rlsd": O.Objective(shaper=O.RLSDShaper()),
    "opid": O.Objective(shaper=O.OPIDShaper(0.1, clip=1.0)),
    "icsd": O.Objective(distillation=O.Distillation(gate=O.ICSDGate(), coefficient=0.5)),
    "pcsd": O.Objective(distillation=O.Distillation(gate=O.PCSDGate(), coefficient=0.5)),
    "gspo": O.Objective(O.GSPOLoss(), aggregation="seq-mean-token-mean"),
    "cispo": O.Objective(O.CISPOLoss()),
    "dr-grpo": O.Objective(aggregation="seq-mean-token-sum", length_norm=9),
}


def part(inputs: O.LossInputs, rows: slice) -> O.LossInputs:
    names = (
        "mask",
        "advantages",
        "turns",
        "old_logprobs",
        "teacher_logprobs",
        "reference_logprobs",
        "entropy",
        "episodes",
        "groups",
    )
    cut: dict[str, Any] = {name: getattr(inputs, name)[rows] for name in names}
    return replace(inputs, student_logprobs=inputs.student_logprobs[rows], **cut)


@pytest.mark.parametrize("name", ALL)
def test_micro_batches_sum_to_the_step(name: str) -> None:
    objective, inputs = ALL[name], example(dtype=DOUBLE)
    objective.validate()
    whole = objective(inputs)
    total = replace(inputs, total_tokens=float(inputs.mask.sum()), total_rows=float((inputs.mask.sum(1) > 0).sum()))
    parts = [objective(part(total, rows)) for rows in (slice(0, 1), slice(1, 3), slice(3, 6))]
    torch.testing.assert_close(sum(p.loss for p in parts), whole.loss, atol=1e-14, rtol=1e-12)
    for key, value in whole.terms.items():
        torch.testing.assert_close(sum(p.terms[key] for p in parts), value, atol=1e-14, rtol=1e-12)
    expected = torch.autograd.grad(whole.loss, inputs.student_logprobs)[0]
    got = torch.autograd.grad(sum(p.loss for p in parts), inputs.student_logprobs)[0]  # type: ignore[arg-type]
    torch.testing.assert_close(got, expected, atol=1e-14, rtol=1e-12)
    for key, record in whole.tokens.items():
        torch.testing.assert_close(torch.cat([p.tokens[key] for p in parts]), record, atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_masked_places_leak_nothing(name: str, bad: float) -> None:
    objective, inputs = ALL[name], example()
    spoil: dict[str, Any] = {
        key: torch.where(inputs.mask > 0, value, torch.full_like(value, bad))
        for key in ("advantages", "old_logprobs", "teacher_logprobs", "reference_logprobs", "entropy")
        if (value := getattr(inputs, key)) is not None
    }
    student = torch.where(inputs.mask > 0, inputs.student_logprobs.detach(), bad).requires_grad_()
    spoiled = replace(inputs, student_logprobs=student, **spoil)
    clean, dirty = objective(inputs), objective(spoiled)
    assert torch.equal(clean.loss, dirty.loss)
    assert torch.equal(grad(objective, inputs), grad(objective, spoiled))
    for key, record in dirty.tokens.items():
        assert torch.equal(record, clean.tokens[key])
        assert record[inputs.mask == 0].abs().max() == 0


@pytest.mark.parametrize("name", ALL)
def test_neither_teacher_nor_records_carry_gradients(name: str) -> None:
    inputs = example()
    leaves = {
        key: getattr(inputs, key).clone().requires_grad_()
        for key in ("old_logprobs", "teacher_logprobs", "reference_logprobs")
    }
    out = ALL[name](replace(inputs, **leaves))
    assert all(g is None for g in torch.autograd.grad(out.loss, list(leaves.values()), allow_unused=True))
    assert not any(x.requires_grad for x in (*out.terms.values(), *out.tokens.values()))


def test_sdar_gradient_is_minus_the_gate() -> None:
    inputs = example()
    objective = O.Objective(None, O.Distillation(coefficient=0.3))
    out = objective(inputs)
    torch.testing.assert_close(grad(objective, inputs), -0.3 * out.tokens["gate"] / inputs.mask.sum())
    torch.testing.assert_close(out.tokens["weight"], 0.3 * out.tokens["gate"])
    equal = objective(replace(inputs, teacher_logprobs=inputs.student_logprobs.detach()))
    assert equal.tokens["gap"].abs().max() == 0
    assert equal.tokens["gate"][inputs.mask > 0].eq(0.5).all()


def test_terms_add_up() -> None:
    out = O.SDAR(coefficient=0.5, reference_coefficient=0.1, entropy_coefficient=0.01)(example())
    t = out.terms
    total = t["loss/policy"] + 0.1 * t["loss/reference_kl"] - 0.01 * t["loss/entropy"] + 0.5 * t["loss/distill"]
    torch.testing.assert_close(t["loss/total"], total)
    assert torch.equal(t["loss/total"], out.loss.detach())


def test_schedules_are_applied() -> None:
    linear = O.Linear(1.0, 0.0, 100)
    assert [linear(s) for s in (0, 25, 100, 1000)] == [1.0, 0.75, 0.0, 0.0]
    inputs = replace(example(), iteration=25)
    late = O.Objective(distillation=O.Distillation(coefficient=0.4, schedule=linear))
    assert torch.equal(late(inputs).loss, O.SDAR(coefficient=0.4 * 0.75)(inputs).loss)
    shaper, plain = O.RLSDShaper(mix=0.5), O.RLSDShaper(mix=0.375, schedule=O.Constant())
    assert torch.equal(shaped(shaper, inputs), shaped(plain, inputs))
    off = O.Objective(None, O.Distillation(schedule=O.Linear(1.0, 0.0, 1)))(inputs)
    assert off.loss == 0
    assert off.loss.requires_grad


def test_gates() -> None:
    inputs = example()
    gap = inputs.gap
    torch.testing.assert_close(O.CentredGapGate(5.0)(gap, inputs), O.GapGate(5.0)(gap, inputs) - 0.5)
    assert (O.EntropyGate()(gap, inputs) >= 0.5).all()  # raw: never below ½
    assert (O.EntropyGate(normalise=True)(gap, inputs)[inputs.mask > 0] < 0.5).any()
    confused = replace(inputs, entropy=torch.full_like(gap, 3.0))
    for normalise, sign in ((False, -1), (True, 1)):  # raw soft-OR reverses its slope where the entropy exceeds 1
        gate = O.SoftOrGate(1.0, normalise)
        low, high = (gate(torch.full_like(gap, x), confused) for x in (-0.1, 0.1))
        assert (torch.sign(high - low)[inputs.mask > 0] == sign).all()
    with pytest.raises(UserError, match="entropies"):
        O.EntropyGate()(gap, replace(inputs, entropy=None))


def test_needs() -> None:
    plain = O.GRPO()
    assert not any((plain.needs_teacher, plain.needs_reference, plain.needs_entropy, plain.shapes_iteration))
    assert O.SDAR().needs_teacher
    assert O.Objective(shaper=O.RLSDShaper()).needs_teacher
    assert O.GRPO(reference_coefficient=0.1).needs_reference
    assert O.SDAR(gate="soft-or").needs_entropy
    assert O.GRPO(entropy_coefficient=0.001).needs_entropy
    assert O.Objective(shaper=O.GRSDShaper()).shapes_iteration


def pushed(estimator: O.Estimator) -> None:
    O.Objective(distillation=O.Distillation(estimator, O.CentredGapGate())).validate()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: O.SDAR(beta=-1), "^model.objective.beta: -1; must be ≥ 0"),
        (lambda: O.SDAR(coefficient=-0.1), "coefficient: -0.1"),
        (lambda: O.SDAR(coefficient=float("nan")), "coefficient: nan"),
        (lambda: O.GRPO(clip_low=-0.2), "^model.objective.clip_low: -0.2; must be ≥ 0 and ≤ 1"),
        (lambda: O.GRPO(clip_high=-0.2), "clip_high"),
        (lambda: O.GRPO(dual_clip=0.5), "^model.objective.dual_clip: 0.5; must be ≥ 1"),
        (lambda: O.GRPO(reference_coefficient=-1), "reference_coefficient"),
        (lambda: O.SDAR(gate="max"), "gate: 'max'; must be one of gap, entropy"),  # type: ignore[arg-type]
        (lambda: O.RLSDShaper(mix=2), "mix: 2"),
        (lambda: O.Linear(steps=0), "schedule.steps"),
        (lambda: O.Objective(O.GSPOLoss()).validate(), "GSPOLoss .* set it to seq-mean-token-mean"),
        (lambda: O.Objective(None).validate(), "nothing to learn"),
        (lambda: O.Objective(None, O.Distillation(), O.RLSDShaper()).validate(), "policy_loss is null"),
        (lambda: O.Objective(length_norm=512).validate(), "length_norm"),
        (lambda: pushed(O.TopKDivergence()), "CentredGapGate .* TopKDivergence .* set gate to GapGate"),
        (lambda: pushed(O.K3(importance=True)), "CentredGapGate .* K3"),
        (lambda: pushed(O.Signed()), "CentredGapGate .* Signed"),
        (lambda: O.SDAR(gate="soft-or")(replace(example(), entropy=None)), "entropies; .* use GapGate"),
        (lambda: O.SDAR().validate(context=False), "set data.context"),
        (lambda: O.Objective(shaper=O.RLSDShaper()).validate(context=False), "set data.context"),
        (lambda: O.Objective(shaper=O.GRSDShaper())(example()), "shape"),
        (lambda: O.GRPO(reference_coefficient=1)(replace(example(), reference_logprobs=None)), "reference_coefficient"),
        (lambda: O.GRPO(entropy_coefficient=1)(replace(example(), entropy=None)), "entropy_coefficient"),
        (lambda: O.GroupAdvantage().validate(1), "group_size: 1"),
        (lambda: O.BatchAdvantage().validate(1), "set baseline to none"),
        (lambda: shaped(O.GRSDShaper(), replace(example(), groups=None)), "group numbers"),
        (lambda: shaped(O.AgentOPSDShaper(), replace(example(), episodes=None)), "episode numbers"),
    ],
)
def test_nonsense_is_refused_in_one_line(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_grpo_without_context_is_fine() -> None:
    O.GRPO().validate(context=False)
    O.SDAR(coefficient=0).validate(context=False)
    O.SDAR(gate="centred").validate()
    O.GroupAdvantage().validate(2)
    O.BatchAdvantage("none").validate(1)


# Policy losses and advantages of other backbones.


def test_cispo_never_drops_a_token() -> None:
    inputs = example()
    far = replace(inputs, old_logprobs=inputs.student_logprobs.detach() - 5.0)
    real = inputs.mask > 0
    assert (grad(O.Objective(O.CISPOLoss(clip_high=0.2)), far)[real] != 0).all()
    got = grad(O.Objective(O.CISPOLoss(clip_high=0.2)), far)
    torch.testing.assert_close(got, -1.2 * inputs.advantages * inputs.mask / inputs.mask.sum())
    assert inputs.old_logprobs is not None
    ratio = (
        (inputs.student_logprobs - inputs.old_logprobs).exp().detach()
    )  # the ratio is a weight: no gradient of its own
    got = grad(O.Objective(O.CISPOLoss(clip_high=100)), inputs)
    torch.testing.assert_close(got, -ratio * inputs.advantages * inputs.mask / inputs.mask.sum())
    assert (grad(O.GRPO(dual_clip=None), far)[real & (inputs.advantages > 0)] == 0).all()
    assert O.Objective(O.CISPOLoss(clip_high=0.2))(far).tokens["clipped"][real].eq(1).all()


def test_dr_grpo_weighs_every_token_alike() -> None:
    inputs = replace(example(), old_logprobs=None)
    got = grad(O.Objective(aggregation="seq-mean-token-sum", length_norm=9), inputs)
    torch.testing.assert_close(got, -inputs.advantages * inputs.mask / (5 * 9))


def test_batch_advantage_standardises_the_batch() -> None:
    rewards = torch.tensor([1.0, 1.0, 0.0, 5.0, 7.0, 7.0])
    groups, episodes = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 0, 1, 2, 3, 3])
    got = O.BatchAdvantage()(rewards, groups, episodes)
    one_each = got[[0, 2, 3, 4]]
    assert one_each.mean().abs() < 1e-6
    assert one_each.std().item() == pytest.approx(1.0, abs=1e-4)
    torch.testing.assert_close(got[[0, 3]], torch.tensor([got[1], -got[4]]))
    plain = O.BatchAdvantage("none")(rewards, groups, episodes)
    assert plain[2] < plain[0] < plain[3] < plain[4]
    assert plain[[0, 2, 3, 4]].mean().abs() < 1e-6


def test_gigpo_adds_a_step_to_the_episode() -> None:
    rewards = torch.tensor([1.0, 1.0, 0.0, 0.0])
    groups, episodes, anchors = torch.zeros(4).long(), torch.tensor([0, 0, 1, 1]), torch.tensor([7, 8, 7, 9])
    gigpo = O.GiGPOAdvantage(weight=2.0, gamma=0.5, scale="none")
    base = O.GroupAdvantage(scale="none")(rewards, groups, episodes)
    got = gigpo(rewards, groups, episodes, anchors=anchors)
    # Anchor 7 is shared: discounted returns 0.5 and 0; the others are alone and gain nothing.
    torch.testing.assert_close(got - base, torch.tensor([0.5, 0.0, -0.5, 0.0]))
    steps = gigpo(rewards, groups, episodes, anchors=anchors, step_rewards=torch.tensor([0.0, 1.0, 0.0, 0.0]))
    assert torch.equal(steps, got)
    apart = gigpo(rewards, torch.tensor([0, 0, 1, 1]), episodes, anchors=anchors)
    torch.testing.assert_close(apart, rewards)  # an anchor is only shared within a group
    assert torch.equal(
        O.GiGPOAdvantage(weight=0.0)(rewards, groups, episodes, anchors=anchors),
        O.GroupAdvantage()(rewards, groups, episodes),
    )
    with pytest.raises(UserError, match="anchor"):
        gigpo(rewards, groups, episodes)


# Invariants of the successors.


def turn_sums(values: Tensor, inputs: O.LossInputs) -> Tensor:
    width = int(inputs.turns.max()) + 1
    return torch.stack([(values * inputs.mask * (inputs.turns == k)).sum(1) for k in range(width)], 1)


def test_icsd_keeps_the_turns_mass() -> None:
    inputs = example(dtype=DOUBLE)
    gate, plain = (g(inputs.gap, inputs) * inputs.mask for g in (O.ICSDGate(), O.GapGate()))
    torch.testing.assert_close(turn_sums(gate, inputs), turn_sums(plain, inputs))
    assert not torch.allclose(gate, plain)
    kept = (inputs.advantages < 0) & (inputs.gap < 0) & (inputs.mask > 0)
    assert kept.any()
    assert torch.equal(gate[kept], plain[kept])
    # Where the advantage is 0 nothing has influence, and the gate stays as it is.
    still = replace(inputs, advantages=torch.zeros_like(inputs.advantages))
    torch.testing.assert_close(O.ICSDGate()(inputs.gap, still) * inputs.mask, plain)
    # Influence decides: relative to the plain gate, more influence never weighs less within a turn.
    row, good = inputs.mask[0] > 0, replace(inputs, advantages=torch.ones_like(inputs.advantages), old_logprobs=None)
    factor = (O.ICSDGate()(inputs.gap, good) / O.GapGate()(inputs.gap, good))[0]
    for k in range(3):
        here = row & (inputs.turns[0] == k)
        order = inputs.gap[0][here].argsort()
        assert (factor[here][order].diff() >= -1e-12).all()


def test_laplace_cdf_is_one() -> None:
    from sdar_pl.objectives.papers.icsd import laplace_cdf

    x = torch.linspace(-50, 50, 200_001, dtype=DOUBLE)
    up, down = torch.full_like(x, 0.7), torch.full_like(x, 0.2)
    cdf = laplace_cdf(x, up, down)
    assert (cdf.diff() >= 0).all()
    assert cdf[0].item() == pytest.approx(0, abs=1e-9)
    assert cdf[-1].item() == pytest.approx(1, abs=1e-9)
    density = cdf.diff() / x.diff()
    middle = (x[1:] + x[:-1]) / 2
    assert (density * middle.clamp(min=0) * x.diff()).sum().item() == pytest.approx(0.7, abs=1e-4)
    assert (density * (-middle).clamp(min=0) * x.diff()).sum().item() == pytest.approx(0.2, abs=1e-4)


def test_pcsd_reads_what_lasts() -> None:
    inputs = example(dtype=DOUBLE)
    gap, mask = inputs.gap, inputs.mask
    plain = O.GapGate()(gap, inputs) * mask
    torch.testing.assert_close(O.PCSDGate(gamma=0.0, window=1)(gap, inputs), plain)
    constant = 0.3 * mask
    torch.testing.assert_close(O.PCSDGate()(constant, inputs), O.GapGate()(constant, inputs) * mask)
    noisy = O.PCSDGate(gamma=0.0)(gap, inputs)
    spread = [g[0].diff().abs().mean() for g in (noisy, plain)]
    assert spread[0] < spread[1]
    # Nothing crosses the border of a turn.
    other = torch.where(inputs.turns == 0, gap + 1.0, gap) * mask
    later = (inputs.turns > 0) & (mask > 0)
    assert torch.equal(O.PCSDGate()(other, inputs)[later], O.PCSDGate()(gap, inputs)[later])
    falling = torch.tensor([0.9, 0.6, 0.3, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0], dtype=DOUBLE).expand_as(gap) * mask
    damped, free = (O.PCSDGate(gamma=g)(falling, inputs) for g in (1.0, 0.0))
    assert (damped[0, 1:4] < free[0, 1:4]).all()
    assert torch.equal(damped[0, 4:], free[0, 4:])


def test_agent_opsd_moves_credit_between_turns() -> None:
    inputs = example(dtype=DOUBLE)
    got = shaped(O.AgentOPSDShaper(), inputs)
    factor = (got / inputs.advantages)[inputs.mask > 0]
    assert (factor >= 0.75).all()
    assert (factor <= 1.25).all()
    assert factor.std() > 0.01
    # A row of its own turn, or all turns in one row: the same episode gets the same advantages.
    one = part(inputs, slice(0, 1))
    split = O.LossInputs(
        **{
            **one.__dict__,
            **{
                k: getattr(one, k).expand(3, 9)
                for k in ("student_logprobs", "advantages", "turns", "old_logprobs", "teacher_logprobs")
            },
            "mask": torch.stack([(one.turns[0] == k) * one.mask[0] for k in range(3)]),
            "episodes": torch.zeros(3).long(),
            "groups": torch.zeros(3).long(),
        }
    )
    whole, apart = shaped(O.AgentOPSDShaper(), one), shaped(O.AgentOPSDShaper(), split)
    torch.testing.assert_close(apart.sum(0), whole[0])
    # By hand: the belief adds up over the turns.
    belief = torch.sigmoid(turn_sums(one.behaviour_gap, one)[0].cumsum(0))
    rise = belief.diff(prepend=torch.tensor([0.5], dtype=DOUBLE))
    z = (rise - rise.mean()) / rise.std(correction=0)
    by_hand = one.advantages[0] * (1 + 0.5 * 0.2 * one.advantages[0].sign() * z[one.turns[0]])
    torch.testing.assert_close(whole[0], by_hand)
    # The turn that raised the belief most gains in a good episode and loses in a bad one.
    assert one.old_logprobs is not None
    good = replace(one, advantages=torch.ones_like(one.mask), teacher_logprobs=one.old_logprobs + (one.turns == 1))
    assert shaped(O.AgentOPSDShaper(), good)[0, 4] > 1
    bad = replace(good, advantages=-good.advantages)
    assert -1 < shaped(O.AgentOPSDShaper(), bad)[0, 4] < 0


def test_grsd_keeps_the_sign_and_compares_in_the_group() -> None:
    inputs = example(dtype=DOUBLE)
    got, real = shaped(O.GRSDShaper(), inputs), inputs.mask > 0
    assert (got.sign() == inputs.advantages.sign())[real].all()
    assert (got.abs() >= 0.1 * inputs.advantages.abs() - 1e-12)[real].all()
    firsts = (got / inputs.advantages)[:, 0]  # one value a turn
    assert torch.equal(got[0, :4] / inputs.advantages[0, :4], firsts[0].expand(4))
    # By hand, for the second group's rows 4 (turns of 4 and 2 tokens) and 5 (two turns of 4), good and bad.
    for flipped in (1, -1):
        now = replace(inputs, advantages=flipped * inputs.advantages)
        counts = turn_sums(torch.ones_like(now.mask), now)[4:]
        mean = turn_sums(now.behaviour_gap, now)[4:] / counts.clamp(min=1)
        raw = torch.expm1(now.advantages[4:, :1].sign() * mean)
        factor = (1 + 0.5 * raw / raw[counts > 0].abs().mean()).clamp(min=0.1)
        by_hand = now.advantages[4:] * factor.gather(1, now.turns[4:]) * now.mask[4:]
        torch.testing.assert_close(shaped(O.GRSDShaper(), now)[4:], by_hand)
    # Groups do not look at each other, and nobody cares for the order of rows.
    alone = shaped(O.GRSDShaper(), part(inputs, slice(0, 4)))
    torch.testing.assert_close(alone, got[:4])


def test_opid_adds_the_teachers_shift() -> None:
    inputs = example(dtype=DOUBLE)
    got = shaped(O.OPIDShaper(0.01), inputs)
    torch.testing.assert_close(got, inputs.mask * inputs.advantages + 0.01 * inputs.behaviour_gap)
    bounded = shaped(O.OPIDShaper(1.0, clip=0.1), inputs) - inputs.mask * inputs.advantages
    assert bounded.abs().max() <= 0.1 + 1e-12


def test_a_blank_micro_batch_needs_nothing() -> None:
    inputs = example()
    blank = replace(
        inputs,
        mask=torch.zeros_like(inputs.mask),
        teacher_logprobs=None,
        reference_logprobs=None,
        old_logprobs=None,
        entropy=None,
    )
    for objective in (O.SDAR(reference_coefficient=0.1, entropy_coefficient=0.1), ALL["opsd"], ALL["rlsd"]):
        assert objective(blank).loss == 0
        assert grad(objective, blank).abs().max() == 0


# Configs.


def parsed(*paths: Path) -> Any:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--model.objective", type=O.Objective)
    parser.add_argument("--data.advantage", type=O.Advantage)
    parser.add_argument("--data.train_with_context", type=bool, default=False)
    parser.add_argument("--data.max_refills", type=int, default=0)
    return parser.instantiate(parser.parse_args([f"--config={path}" for path in paths]))


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_every_config_is_a_method(path: Path, tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"  # a recipe to ride on: what both classes know is kept
    base.write_text(
        "model: {objective: {class_path: sdar_pl.objectives.SDAR, init_args: {reference_coefficient: 0.02}}}\n"
        "data: {advantage: {class_path: sdar_pl.objectives.GroupAdvantage}}\n"
    )
    for config in (parsed(path), parsed(base, path)):
        objective = config.model.objective
        objective.validate()
        inputs = replace(example(), shaped=objective.shapes_iteration)
        out = objective(inputs)
        assert out.loss.isfinite()
        assert torch.autograd.grad(out.loss, inputs.student_logprobs)[0].abs().sum() > 0
        if config.data.advantage is not None:
            config.data.advantage.validate(8)
    kept = 0.0 if path.stem in ("dapo", "dr_grpo") else 0.02
    assert config.model.objective.reference_coefficient == kept
    assert path.read_text().startswith("# ")


def test_the_configs_cover_the_family() -> None:
    assert len(METHODS) >= 25
    names = {path.stem for path in METHODS}
    assert {"grpo", "opsd", "grpo_opsd_official", "grpo_opsd_signed", "skill_grpo", "skill_sd", "rlsd", "sdar"} <= names


def test_yaml_reaches_the_parts() -> None:
    by_name = {path.stem: parsed(path).model.objective for path in METHODS}
    assert by_name["sdar"].distillation.coefficient == 0.01
    assert by_name["opsd"].policy_loss is None
    assert by_name["dapo"].policy_loss.dual_clip is None
    assert by_name["rlsd"].shaper.schedule(50) == 0.5
    assert by_name["skill_sd"].distillation.estimator.importance
    assert by_name["gspo"].policy_loss.clip_high == 4e-4
    assert by_name["sdar_js"].distillation.estimator.kind == "js"
    assert by_name["sdar_forward_kl"].teacher_top_k == 64
