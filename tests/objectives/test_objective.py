"""The objective as a whole: sums over micro-batches, masks, gradients, records."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.losses import DOUBLE, example, grad, rows_of, shaped, spoiled, with_totals

from sdar_pl import objectives as O

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


@pytest.mark.parametrize("name", ALL)
def test_micro_batches_sum_to_the_step(name: str) -> None:
    objective, inputs = ALL[name], example(dtype=DOUBLE)
    objective.validate()
    whole, total = objective(inputs), with_totals(inputs)
    parts = [objective(rows_of(total, rows)) for rows in (slice(0, 1), slice(1, 3), slice(3, 6))]
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
    clean, dirty = objective(inputs), objective(spoiled(inputs, bad))
    assert torch.equal(clean.loss, dirty.loss)
    assert torch.equal(grad(objective, inputs), grad(objective, spoiled(inputs, bad)))
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


def test_needs() -> None:
    plain = O.GRPO()
    assert not any((plain.needs_teacher, plain.needs_reference, plain.shapes_iteration))
    assert O.SDAR().needs_teacher
    assert O.Objective(shaper=O.RLSDShaper()).needs_teacher
    assert O.GRPO(reference_coefficient=0.1).needs_reference
    assert O.Objective(shaper=O.GRSDShaper()).shapes_iteration


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
