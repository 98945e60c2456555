"""Policy losses other than GRPO's."""

from __future__ import annotations

from dataclasses import replace

import torch
from helpers.losses import example, grad

from sdar_pl import objectives as O


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


def test_the_clip_fraction_counts_both_clips() -> None:
    """By hand, clip 0.2 and dual clip 3: a clipped token's term is a constant, so that it has no gradient."""
    cases = [(1.0, 1.5, -1.2, 1), (-1.0, 0.5, 0.8, 1), (-1.0, 4.0, 3.0, 1), (-2.0, 9.0, 6.0, 1), (1.0, 0.5, -0.5, 0)]
    cases += [(-1.0, 2.9, 2.9, 0), (1.0, 1.1, -1.1, 0), (-1.0, 1.0, 1.0, 0), (0.0, 9.0, 0.0, 0)]
    advantages, ratios, terms, clipped = (torch.tensor(column) for column in zip(*cases, strict=True))
    student = ratios.log()[None].requires_grad_()
    ones = torch.ones_like(student)
    inputs = O.LossInputs(student, ones, advantages[None], 0 * ones.long(), old_logprobs=0 * ones)
    got, acts = O.ClippedPolicyLoss(0.2, 0.2, 3.0)(inputs)
    torch.testing.assert_close(got[0], terms)
    assert acts[0].tolist() == clipped.tolist()
    gradient = torch.autograd.grad(got.sum(), student)[0][0]
    assert (gradient == 0).tolist() == [act == 1 or advantage == 0 for advantage, _, _, act in cases]
    _, without = O.ClippedPolicyLoss(0.2, 0.2, None)(inputs)
    assert without[0].tolist() == [1, 1, *[0] * 7]
