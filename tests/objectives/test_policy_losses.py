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
