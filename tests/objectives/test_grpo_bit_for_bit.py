"""Methods whose teacher is switched off are GRPO, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import torch
from helpers.losses import example, grad, shaped

from sdar_pl import objectives as O


def assert_same_bits(a: O.Objective, b: O.Objective, inputs: O.LossInputs) -> None:
    assert torch.equal(a(inputs).loss, b(inputs).loss)
    assert torch.equal(grad(a, inputs), grad(b, inputs))


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
