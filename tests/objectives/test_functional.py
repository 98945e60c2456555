"""functional.py against the recorded figures of the reference implementations, in value and in gradient."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from helpers import SHARED
from torch import Tensor

from sdar_pl.errors import UserError
from sdar_pl.objectives import functional as F

GOLDEN = SHARED / "golden" / "losses.json"
FIGURES: dict[str, Any] = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {"losses": [], "advantages": []}
golden = pytest.mark.skipif(not GOLDEN.exists(), reason=f"no reference figures at {GOLDEN}")
CASES = range(len(FIGURES["losses"]))


class Case:
    def __init__(self, index: int) -> None:
        self.raw = FIGURES["losses"][index]
        for name in ("teacher", "old", "ref", "mask", "advantage"):
            setattr(self, name, torch.tensor(self.raw[name], dtype=torch.float64))
        self.student = torch.tensor(self.raw["student"], dtype=torch.float64, requires_grad=True)

    teacher: Tensor
    old: Tensor
    ref: Tensor
    mask: Tensor
    advantage: Tensor

    def check(self, loss: Tensor, expected: dict[str, Any]) -> None:
        (grad,) = torch.autograd.grad(loss, self.student)
        assert loss.item() == pytest.approx(expected["loss"], abs=1e-6)
        torch.testing.assert_close(grad, torch.tensor(expected["grad"], dtype=torch.float64), atol=1e-6, rtol=0)


@golden
@pytest.mark.parametrize("index", CASES)
def test_losses_match_the_reference(index: int) -> None:
    c = Case(index)
    agg, raw = c.raw["agg"], c.raw
    c.check(F.sdar_loss(c.student, c.teacher, c.mask, beta=raw["beta"], aggregation=agg), raw["sdar"])
    c.check(F.skill_sd_loss(c.student, c.teacher, c.old, c.mask, aggregation=agg), raw["skill_sd"])
    for name in ("k1", "k2", "k3"):
        c.check(F.reference_kl(c.student, c.ref, c.mask, estimator=name, aggregation=agg), raw["kl"][name])
    clip = {key: raw["clipped_pg"][key] for key in ("clip_low", "clip_high", "dual_clip")}
    loss = F.clipped_policy_loss(c.student, c.old, c.advantage, c.mask, aggregation=agg, **clip)
    c.check(loss, raw["clipped_pg"])
    clip = {key: raw["gspo"][key] for key in ("clip_low", "clip_high")}
    c.check(F.gspo_loss(c.student, c.old, c.advantage, c.mask, **clip), raw["gspo"])


@golden
@pytest.mark.parametrize("index", CASES)
def test_records_match_the_reference(index: int) -> None:
    c = Case(index)
    gap, gate = F.gap_gate(c.student, c.teacher, c.mask, beta=c.raw["beta"])
    expected = c.raw["sdar"]["metrics"]
    assert F.aggregate(gap, c.mask).item() == pytest.approx(expected["sdar/teacher_gap_mean"], abs=1e-6)
    assert F.aggregate(gate, c.mask).item() == pytest.approx(expected["sdar/gate_mean"], abs=1e-6)
    active = F.aggregate((gate > 0.5).double(), c.mask).item()
    assert active == pytest.approx(expected["sdar/gate_active_ratio"], abs=1e-6)
    pg = c.raw["clipped_pg"]
    clip = {key: pg[key] for key in ("clip_low", "clip_high", "dual_clip")}
    _, clipped = F.clipped_policy_terms(c.student, c.old, c.advantage, c.mask, **clip)
    assert F.aggregate(clipped, c.mask).item() == pytest.approx(pg["clipfrac"], abs=1e-6)
    kl = -F.aggregate(F.log_ratio(c.student, c.old, c.mask), c.mask)
    assert kl.item() == pytest.approx(pg["approx_kl"], abs=1e-6)


@golden
@pytest.mark.parametrize("index", CASES)
def test_rlsd_advantages_match_the_reference(index: int) -> None:
    c = Case(index)
    for mix, expected in c.raw["rlsd_advantage"].items():
        got = F.rlsd_advantages(c.advantage, c.old, c.teacher, c.mask, mix=float(mix), clip=0.2)
        torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)


@golden
@pytest.mark.parametrize("index", range(len(FIGURES["advantages"])))
def test_group_advantages_match_the_reference(index: int) -> None:
    raw = FIGURES["advantages"][index]
    rewards = torch.tensor(raw["row_reward"])
    groups, episodes = torch.tensor(raw["group"]), torch.tensor(raw["trajectory"])
    kinds = {
        "grpo_rows_std": ("row", "std"),
        "grpo_rows_nostd": ("row", "none"),
        "grpo_trajectories_std": ("episode", "std"),
        "grpo_trajectories_nostd": ("episode", "none"),
        "rloo_rows": ("row", "leave-one-out"),
    }
    for key, (unit, scale) in kinds.items():
        got = F.group_advantages(rewards, groups, episodes, unit=unit, scale=scale)  # type: ignore[arg-type]
        torch.testing.assert_close(got, torch.tensor(raw[key]), atol=1e-4, rtol=0)


def test_group_statistics_count_each_episode_once() -> None:
    rewards = torch.tensor([1.0] * 9 + [0.0])
    groups, episodes = torch.zeros(10).long(), torch.tensor([0] * 9 + [1])
    by_episode = F.group_advantages(rewards, groups, episodes, scale="none")
    torch.testing.assert_close(by_episode, torch.tensor([0.5] * 9 + [-0.5]))
    by_row = F.group_advantages(rewards, groups, episodes, unit="row", scale="none")
    torch.testing.assert_close(by_row, torch.tensor([0.1] * 9 + [-0.9]))
    others = F.group_advantages(rewards, groups, episodes, scale="leave-one-out")
    torch.testing.assert_close(others, torch.tensor([1.0] * 9 + [-1.0]))


def test_equal_rewards_give_exactly_nothing() -> None:
    rewards, groups = torch.full((8,), 0.1), torch.zeros(8).long()
    for scale in ("std", "none", "leave-one-out"):
        got = F.group_advantages(rewards, groups, torch.arange(8), scale=scale)
        assert got.abs().max() < 1e-9


def test_a_group_of_one_keeps_its_reward() -> None:
    got = F.group_advantages(torch.tensor([10.0]), torch.tensor([3]), torch.tensor([0]))
    assert got.item() == 10.0


def example(rows: int = 6, length: int = 7) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    student, teacher, old = (-torch.rand(rows, length, dtype=torch.float64) * 3 for _ in range(3))
    lengths = torch.tensor([7, 1, 0, 4, 3, 5])[:rows]
    mask = (torch.arange(length) < lengths[:, None]).double()
    return student.requires_grad_(), teacher, old, mask, torch.randn(rows, dtype=torch.float64)


@pytest.mark.parametrize("how", ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"])
def test_micro_batches_sum_to_the_whole(how: F.Aggregation) -> None:
    student, teacher, old, mask, advantages = example()
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
    student, teacher, old, mask, advantages = example()

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
    student, teacher, _, mask, _ = example()
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
