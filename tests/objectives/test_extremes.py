"""Log-ratios far outside the usual range, bounds and defaults: what a run of the usual size never shows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.losses import DOUBLE, example, grad, shaped

from sdar_pl import objectives as O
from sdar_pl.objectives import functional as F

ONE = torch.ones(1, 1, dtype=DOUBLE)


def test_log_ratios_are_clamped() -> None:
    far = 50 * ONE
    assert F.log_ratio(far, 0 * far, ONE).item() == 20
    assert F.log_ratio(-far, 0 * far, ONE).item() == -20
    assert F.k3(-far).item() == pytest.approx(math.exp(20) - 21)
    assert F.k3(far).item() == pytest.approx(math.exp(-20) + 19)
    assert F.kl_terms(-far, 0 * far, ONE).item() == 10
    skill_sd = F.skill_sd_terms(far, far - 1, 0 * far, ONE)
    assert skill_sd.item() == pytest.approx(math.exp(10) * math.exp(-1))
    terms, _ = F.gspo_terms(far, 0 * far, -ONE, ONE, clip_low=0.1, clip_high=0.1)
    assert terms.item() == pytest.approx(math.exp(10))


def test_dual_clip_bounds_the_loss_of_bad_tokens() -> None:
    terms, _ = O.ClippedPolicyLoss(dual_clip=2.0)(
        O.LossInputs(5 * ONE, ONE, -ONE, 0 * ONE.long(), old_logprobs=0 * ONE)
    )
    assert terms.item() == 2.0
    loss = F.clipped_policy_loss(5 * ONE, 0 * ONE, -ONE, ONE, dual_clip=2.0)
    assert loss.item() == 2.0


def test_cispo_clips_the_ratio_on_both_sides() -> None:
    cispo = O.CISPOLoss(clip_low=0.3, clip_high=0.5)
    for log_ratio, weight in ((-3.0, 0.7), (3.0, 1.5)):
        student = (log_ratio * ONE).requires_grad_()
        inputs = O.LossInputs(student, ONE, ONE, 0 * ONE.long(), old_logprobs=0 * ONE)
        assert grad(O.Objective(cispo), inputs).item() == pytest.approx(-weight)


def test_signed_follows_the_bounded_gap_of_the_current_student() -> None:
    inputs = example(dtype=DOUBLE)
    n = inputs.mask.sum()
    for clip, gap in ((None, inputs.gap), (0.3, inputs.gap.clamp(-0.3, 0.3))):
        objective = O.Objective(None, O.Distillation(O.Signed(clip), O.ConstantGate(0.5), coefficient=1.0))
        torch.testing.assert_close(grad(objective, inputs), -0.5 * gap / n)


@pytest.mark.parametrize("importance", [False, True])
def test_k3_is_proportional_to_the_gate(importance: bool) -> None:
    inputs = example(dtype=DOUBLE)
    whole, half = (
        O.Objective(None, O.Distillation(O.K3(importance), O.ConstantGate(gate), 1.0))(inputs).loss for gate in (1, 0.5)
    )
    torch.testing.assert_close(half, whole / 2)


def test_the_weight_of_a_shaper_is_the_change_of_the_advantage() -> None:
    inputs = example(dtype=DOUBLE)
    shaper = O.RLSDShaper(clip=0.05, schedule=O.Constant())
    factor = (inputs.advantages.sign() * inputs.behaviour_gap).exp().clamp(0.95, 1.05)
    change = 0.5 * inputs.advantages * (factor - 1) * inputs.mask
    torch.testing.assert_close(O.Objective(shaper=shaper)(inputs).tokens["weight"], change)
    torch.testing.assert_close(shaped(shaper, inputs), inputs.advantages * inputs.mask + change)


def test_totals_replace_the_denominator() -> None:
    inputs = example(dtype=DOUBLE)
    student, old, mask = inputs.student_logprobs, inputs.behaviour - 0.1, inputs.mask
    n, rows = mask.sum().item(), 5.0
    torch.testing.assert_close(
        F.skill_sd_loss(student, old, old, mask, total=2 * n) * 2, F.skill_sd_loss(student, old, old, mask)
    )
    advantages = inputs.advantages[:, 0]
    once, twice = (
        F.gspo_loss(student, old, advantages, mask, clip_low=1, clip_high=1, total=t) for t in (rows, 2 * rows)
    )
    torch.testing.assert_close(once, F.gspo_loss(student, old, advantages, mask, clip_low=1, clip_high=1))
    torch.testing.assert_close(2 * twice, once)


def test_one_sample_and_whole_rewards() -> None:
    one = torch.tensor([0])
    assert O.BatchAdvantage("none")(torch.tensor([3.0]), one, one).item() == 0.0
    whole = O.GroupAdvantage()(torch.tensor([1, 0]), torch.zeros(2).long(), torch.tensor([0, 1]))
    assert whole.dtype == torch.get_default_dtype()
    torch.testing.assert_close(whole, torch.tensor([math.sqrt(0.5), -math.sqrt(0.5)]), atol=1e-5, rtol=0)


def test_agent_opsd_keeps_apart_what_micro_batches_split() -> None:
    assert O.Objective(shaper=O.AgentOPSDShaper()).shapes_iteration
    inputs = replace(example(), iteration=0)
    assert O.LossInputs(inputs.student_logprobs, inputs.mask, inputs.advantages, inputs.turns).iteration == 0


@pytest.mark.parametrize(
    ("part", "published"),
    [
        (O.GapGate(), {"beta": 5.0}),
        (O.EntropyGate(), {"beta": 5.0, "normalise": False}),
        (O.SoftOrGate(), {"beta": 5.0, "normalise": False}),
        (O.Distillation(), {"coefficient": 0.01}),
        (O.ClippedPolicyLoss(), {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": 3.0}),
        (O.GSPOLoss(), {"clip_low": 3e-4, "clip_high": 4e-4}),
        (O.CISPOLoss(), {"clip_low": 1.0, "clip_high": 4.0}),
        (O.OPIDShaper(), {"coefficient": 0.001, "clip": None}),
        (O.GiGPOAdvantage(), {"weight": 1.0, "gamma": 0.95}),
        (O.AgentOPSDShaper(), {"mix": 0.5, "strength": 0.2, "clip": 0.2}),
        (O.GRSDShaper(), {"coefficient": 0.5, "floor": 0.1, "clip": 0.2}),
        (O.PCSDGate(), {"beta": 5.0, "gamma": 0.5, "window": 8, "decay": 0.9}),
    ],
    ids=lambda part: type(part).__name__,
)
def test_defaults_are_those_that_the_docstrings_give(part: Any, published: dict[str, Any]) -> None:
    assert {name: getattr(part, name) for name in published} == published
