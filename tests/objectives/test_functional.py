"""functional.py: sums over micro-batches, masks, gradients. Its figures are in test_golden.py."""

from __future__ import annotations

import pytest
import torch
from helpers.losses import DOUBLE, example
from torch import Tensor

from sdar_pl.errors import UserError
from sdar_pl.objectives import functional as F


def tensors() -> tuple[Tensor, ...]:
    """Student, teacher, old log-probs and mask [B, R], advantages [B]; one row is empty."""
    inputs = example(dtype=DOUBLE)
    assert inputs.teacher_logprobs is not None
    assert inputs.old_logprobs is not None
    return inputs.student_logprobs, inputs.teacher_logprobs, inputs.old_logprobs, inputs.mask, inputs.advantages[:, 0]


@pytest.mark.parametrize("how", ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"])
def test_micro_batches_sum_to_the_whole(how: F.Aggregation) -> None:
    student, teacher, old, mask, advantages = tensors()
    total = mask.sum() if how == "token-mean" else (mask.sum(-1) > 0).sum()

    def losses(s: slice, total: Tensor | None) -> Tensor:
        kl = F.reference_kl(student[s], old[s], mask[s], aggregation=how, total=total)
        pg = F.clipped_policy_loss(student[s], old[s], advantages[s], mask[s], aggregation=how, total=total)
        return kl + pg + F.sdar_loss(student[s], teacher[s], mask[s], aggregation=how, total=total)

    whole = losses(slice(None), None)
    parts = losses(slice(0, 1), total) + losses(slice(1, 3), total) + losses(slice(3, 6), total)
    torch.testing.assert_close(parts, whole, atol=1e-14, rtol=0)
    (expected,), (got,) = torch.autograd.grad(whole, student), torch.autograd.grad(parts, student)
    torch.testing.assert_close(got, expected, atol=1e-14, rtol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_masked_places_leak_nothing(bad: float) -> None:
    student, teacher, old, mask, advantages = tensors()

    def losses(spoil: float | None) -> list[Tensor]:
        tensors = [student.detach(), teacher, old]
        if spoil is not None:
            tensors = [torch.where(mask > 0, x, torch.full_like(x, spoil)) for x in tensors]
        s, t, o = tensors
        s.requires_grad_()
        a = F.rlsd_advantages(advantages, o, t, mask)
        values = [
            F.sdar_loss(s, t, mask),
            F.clipped_policy_loss(s, o, a, mask),
            F.gspo_loss(s, o, advantages, mask, clip_low=0.1, clip_high=0.1),
            F.skill_sd_loss(s, t, o, mask),
            *(F.reference_kl(s, o, mask, estimator=k) for k in ("k1", "k2", "k3")),
        ]
        return values + [torch.autograd.grad(v, s)[0] for v in values]

    for clean, spoiled in zip(losses(None), losses(bad), strict=True):
        assert torch.equal(clean, spoiled)


def test_only_the_student_learns() -> None:
    student, teacher, _, mask, _ = tensors()
    teacher.requires_grad_()
    loss = F.sdar_loss(student, teacher, mask, beta=3.0)
    grad, none = torch.autograd.grad(loss, [student, teacher], allow_unused=True)
    assert none is None
    _, gate = F.gap_gate(student, teacher, mask, beta=3.0)
    torch.testing.assert_close(grad, -gate * mask / mask.sum())


def test_an_empty_batch_is_nothing() -> None:
    student = torch.zeros(2, 3, requires_grad=True)
    for how in ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum"):
        assert F.aggregate(student, torch.zeros(2, 3), how).item() == 0.0


def test_unknown_names_are_refused() -> None:
    x, mask = torch.zeros(1, 1), torch.ones(1, 1)
    with pytest.raises(UserError, match="token-mean"):
        F.aggregate(x, mask, "sum")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="k1, k2, k3"):
        F.kl_terms(x, x, mask, estimator="k4")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="episode, row"):
        F.group_advantages(x[0], mask[0], mask[0], unit="token")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="leave-one-out"):
        F.group_advantages(x[0], mask[0], mask[0], scale="max")  # type: ignore[arg-type]
