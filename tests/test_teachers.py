"""Whose weights the teacher reads with: exact averages, views that leave no trace, whole runs."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.models import shake
from helpers.runs import ROOT, fit_here, metrics, weights
from test_scoring import fill, played

from sdar_pl.batch import Batch, collate
from sdar_pl.errors import UserError
from sdar_pl.policy import Policy
from sdar_pl.teachers import Current, Initial, MovingAverage, Teacher

MakePolicy = Callable[..., Policy]
EMA = str(ROOT / "configs" / "teachers" / "ema.yaml")
CURRENT = ["--config", str(ROOT / "configs" / "teachers" / "current.yaml")]


def values(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: weights.detach().clone() for name, weights in policy.trained()}


def seen(policy: Policy, teacher: Teacher) -> dict[str, torch.Tensor]:
    """The trained parameters as the teacher has them."""
    with policy.whole(), teacher.view(policy):
        return values(policy)


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


# ---------------------------------------------------------------------- the moving average


@pytest.mark.parametrize("options", [{}, {"quantization": "nf4"}, {"lora": False}])
def test_the_average_is_the_formula(make_policy: MakePolicy, options: dict[str, Any]) -> None:
    policy, teacher = make_policy(**options), MovingAverage(0.75)  # exact in binary
    teacher.begin(policy)
    wanted = values(policy)
    assert same(seen(policy, teacher), wanted), "it begins as the policy"
    for seed in (2, 3, 4):
        generator = torch.Generator().manual_seed(seed)
        for _, parameter in policy.trained():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
        now = values(policy)
        teacher.begin(policy)  # asked at every iteration, but it begins only once
        teacher.follow(policy)
        wanted = {name: 0.75 * mean + 0.25 * now[name] for name, mean in wanted.items()}
        found = seen(policy, teacher)
        assert found.keys() == wanted.keys()
        for name in wanted:
            torch.testing.assert_close(found[name], wanted[name], rtol=1e-6, atol=1e-7)
        assert same(values(policy), now), "the policy is as it was"


def test_without_memory_it_is_the_policy_bit_for_bit(make_policy: MakePolicy) -> None:
    policy, teacher = make_policy(), MovingAverage(0.0)
    teacher.begin(policy)
    for seed in (2, 3):
        shake(policy, seed)
        teacher.follow(policy)
        assert same(seen(policy, teacher), values(policy))
    rows = played(policy, "conversation")
    fill(policy, rows, teacher=Current())
    wanted = [row.teacher_logprobs for row in rows]
    fill(policy, rows, teacher=teacher)
    assert [row.teacher_logprobs for row in rows] == wanted


def test_averages_of_bfloat16_weights_do_not_stand_still(make_policy: MakePolicy) -> None:
    policy, teacher = make_policy(lora=False), MovingAverage(0.999)
    policy.to(torch.bfloat16)
    teacher.begin(policy)
    before = values(policy)
    for _, parameter in policy.trained():
        parameter.data += 1.0
    for _ in range(2000):  # each step is less than bfloat16 can tell apart
        teacher.follow(policy)
    name, now = policy.trained()[0]
    assert teacher._means[name].dtype == torch.float32
    moved = (seen(policy, teacher)[name].float() - before[name].float()).mean()
    assert moved == pytest.approx(1 - 0.999**2000, abs=0.02)
    assert now.dtype == torch.bfloat16


def test_the_view_ends_with_an_error_too(make_policy: MakePolicy) -> None:
    policy, teacher = make_policy(), MovingAverage()
    teacher.begin(policy)
    shake(policy, 2)
    now = values(policy)
    assert not same(seen(policy, teacher), now)
    with pytest.raises(ZeroDivisionError), policy.whole(), teacher.view(policy):
        raise ZeroDivisionError
    assert same(values(policy), now)
    assert all(parameter.requires_grad for _, parameter in policy.trained())
    assert policy.training


def test_state_is_plain_and_comes_back(make_policy: MakePolicy) -> None:
    policy, teacher = make_policy(), MovingAverage(0.5)
    teacher.begin(policy)
    shake(policy, 2)
    teacher.follow(policy)
    file = io.BytesIO()
    torch.save(teacher.state_dict(), file)
    state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    again = MovingAverage(0.5)
    again.load_state_dict(state)
    assert same(again.state_dict(), state), "a state that was not used yet is not lost"
    again.begin(policy)
    assert same(seen(policy, again), seen(policy, teacher))
    for one in (teacher, again):
        one.follow(policy)
    assert same(again.state_dict(), teacher.state_dict())
    assert not same(again.state_dict(), state)
    again.load_state_dict({})  # of a run with another teacher: it begins anew
    again.begin(policy)
    assert same(seen(policy, again), values(policy))


def test_nobody_asks_for_a_teacher(make_policy: MakePolicy) -> None:
    policy, teacher = make_policy(), MovingAverage()
    teacher.follow(policy)
    assert teacher.state_dict() == {}


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_a_decay_that_is_none(decay: float) -> None:
    with pytest.raises(UserError, match=r"model\.teacher\.decay"):
        MovingAverage(decay)


# ---------------------------------------------------------------------- the initial weights


def test_the_initial_teacher_without_context_is_the_reference(make_policy: MakePolicy) -> None:
    policy = make_policy()
    rows = played(policy, "conversation", ("", ""))
    fill(policy, rows, teacher=Initial(), reference=True)
    assert all(row.teacher_logprobs == row.reference_logprobs for row in rows)


def test_the_initial_teacher_reads_the_context_with_adapters_off(make_policy: MakePolicy) -> None:
    policy, base = make_policy(), make_policy(lora=False)
    rows = played(policy, "conversation")
    fill(policy, rows, teacher=Initial(), reference=True)
    told, untold = (next(row for row in rows if bool(row.teacher_tokens) is yes) for yes in (True, False))
    with torch.no_grad():
        wanted = base.logprobs(collate([told.as_teacher()])).values
    torch.testing.assert_close(torch.tensor(told.teacher_logprobs), wanted[0], atol=2e-5, rtol=0)
    assert told.teacher_logprobs != told.reference_logprobs
    assert untold.teacher_logprobs == untold.reference_logprobs


def test_the_initial_teacher_needs_adapters(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    none = ["--model.policy.lora", "null", "--model.objective.init_args.reference_coefficient", "0"]
    fit_here(tmp_path, "--model.teacher", "sdar_pl.teachers.Initial", *none, status=2)
    said = capfd.readouterr().err
    assert said.startswith("error: model.teacher: Initial is")
    assert said.count("\n") == 1


# ---------------------------------------------------------------------- refreshed at every step


def test_a_reading_moves_with_its_batch(make_policy: MakePolicy) -> None:
    rows = played(make_policy(), "conversation")
    batch = collate(rows)
    batch.teacher_batch = collate([row.as_teacher() for row in rows])
    moved = batch.to(torch.device("meta"))
    assert isinstance(moved.teacher_batch, Batch)
    assert moved.teacher_batch.tokens.device.type == "meta"
    assert moved.teacher_batch.mask.shape == moved.mask.shape


def test_an_objective_that_shapes_iterations_cannot_refresh(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    grsd = str(ROOT / "configs" / "objectives" / "grsd.yaml")
    fit_here(tmp_path, "--config", grsd, "--model.teacher_refresh", "step", status=2)
    assert "error: model.teacher_refresh" in capfd.readouterr().err


def close(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> bool:
    return all(mine == pytest.approx(other, abs=1e-5, rel=1e-5) for mine, other in zip(ours, theirs, strict=True))


TWO_STEPS = ["--data.steps_per_iteration", "2", "--data.micro_batch_tokens", "600"]


@pytest.mark.slow
def test_refreshing_within_an_iteration_needs_several_steps(tmp_path: Path) -> None:
    once = metrics(fit_here(tmp_path / "a", *CURRENT))
    assert close(metrics(fit_here(tmp_path / "b", *CURRENT, "--model.teacher_refresh", "step")), once)
    early, late = (
        metrics(fit_here(tmp_path / when, *CURRENT, *TWO_STEPS, "--model.teacher_refresh", when))
        for when in ("iteration", "step")
    )
    assert early[1]["gap/mean"] != pytest.approx(late[1]["gap/mean"], abs=1e-6)
    assert early[1]["train/reward"] == late[1]["train/reward"], "the first rollout is the same"


@pytest.mark.slow
def test_a_divergence_is_refreshed_too(tmp_path: Path) -> None:
    options = [*CURRENT, "--config", str(ROOT / "configs" / "objectives" / "sdar_js.yaml")]
    once = metrics(fit_here(tmp_path / "a", *options))
    assert once[-1]["loss/distill"] > 0
    assert close(metrics(fit_here(tmp_path / "b", *options, "--model.teacher_refresh", "step")), once)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["iteration", "step"])
def test_an_average_without_memory_is_the_paper_s_teacher(when: str, tmp_path: Path) -> None:
    options = [*TWO_STEPS, "--model.teacher_refresh", when]
    plain = fit_here(tmp_path / "plain", *options, *CURRENT)
    ema = fit_here(tmp_path / "ema", *options, "--config", EMA, "--model.teacher.init_args.decay", "0")
    assert metrics(ema) == metrics(plain)
    assert same(weights(ema), weights(plain))


@pytest.mark.slow
def test_a_resumed_average_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    options = ["--config", EMA, *TWO_STEPS, "--model.teacher_refresh", "step"]
    whole = fit_here(tmp_path / "whole", *options, "--trainer.max_epochs", "3")
    fit_here(tmp_path / "parts", *options, "--trainer.max_epochs", "1")
    resumed = fit_here(tmp_path / "parts", *options, "--trainer.max_epochs", "3", "--ckpt_path", "last")
    assert metrics(resumed) == metrics(whole)
    ours, theirs = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (resumed, whole))
    assert same(ours["state_dict"], theirs["state_dict"])
    assert same(ours["teacher"], theirs["teacher"])
    assert not same({f"policy.{name}": mean for name, mean in ours["teacher"].items()}, ours["state_dict"])
