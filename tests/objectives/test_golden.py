"""Losses and advantages against figures of the reference implementations, in value and in gradient.

Everything is tried twice: the functions of functional.py, and the classes that train.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
import torch
from helpers import SHARED
from helpers.evidence import required
from helpers.losses import DOUBLE, shaped
from torch import Tensor

from sdar_pl import objectives as O
from sdar_pl.objectives import functional as F
from sdar_pl.objectives.group_statistics import Scale, Unit

GOLDEN = SHARED / "golden" / "losses.json"
KL_ESTIMATORS: tuple[F.KLEstimator, ...] = ("k1", "k2", "k3")


@functools.cache
def figures() -> Any:
    required(GOLDEN, "figures of the reference implementations")
    return json.loads(GOLDEN.read_text())


class Case:
    """One recorded case: inputs in double precision, and what the reference made of them."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw
        self.student = torch.tensor(raw["student"], dtype=DOUBLE, requires_grad=True)
        self.teacher, self.old, self.ref, self.mask, self.advantage = (
            torch.tensor(raw[name], dtype=DOUBLE) for name in ("teacher", "old", "ref", "mask", "advantage")
        )
        self.beta: float = raw["beta"]
        self.aggregation: F.Aggregation = raw["agg"]
        self.inputs = O.LossInputs(
            student_logprobs=self.student,
            mask=self.mask,
            advantages=self.advantage[:, None].expand_as(self.mask),
            turns=torch.zeros_like(self.mask).long(),
            old_logprobs=self.old,
            teacher_logprobs=self.teacher,
            reference_logprobs=self.ref,
        )

    def clips(self, name: str) -> dict[str, Any]:
        return {key: self.raw[name][key] for key in ("clip_low", "clip_high", "dual_clip") if key in self.raw[name]}

    def check(self, loss: Tensor, **weights: float) -> None:
        """``loss`` is the weighted sum of recorded losses, and its gradient that of their gradients."""
        recorded = {**self.raw, **self.raw["kl"]}
        (grad,) = torch.autograd.grad(loss, self.student)
        value = sum(weight * recorded[name]["loss"] for name, weight in weights.items())
        slope = sum(weight * torch.tensor(recorded[name]["grad"], dtype=DOUBLE) for name, weight in weights.items())
        assert loss.item() == pytest.approx(value, abs=1e-6)
        torch.testing.assert_close(grad, slope, atol=1e-6, rtol=0)

    def mean(self, record: Tensor) -> float:
        return F.aggregate(record, self.mask).item()


@pytest.fixture(params=range(12))
def case(request: pytest.FixtureRequest) -> Case:
    return Case(figures()["losses"][request.param])


def test_no_case_is_left_out() -> None:
    assert (len(figures()["losses"]), len(figures()["advantages"])) == (12, 6)


# ---------------------------------------------------------------------- the functions


def test_functions_match_the_reference(case: Case) -> None:
    c, how = case, case.aggregation
    c.check(F.sdar_loss(c.student, c.teacher, c.mask, beta=c.beta, aggregation=how), sdar=1)
    c.check(F.skill_sd_loss(c.student, c.teacher, c.old, c.mask, aggregation=how), skill_sd=1)
    for name in KL_ESTIMATORS:
        c.check(F.reference_kl(c.student, c.ref, c.mask, estimator=name, aggregation=how), **{name: 1})
    clips = c.clips("clipped_pg")
    c.check(F.clipped_policy_loss(c.student, c.old, c.advantage, c.mask, aggregation=how, **clips), clipped_pg=1)
    c.check(F.gspo_loss(c.student, c.old, c.advantage, c.mask, **c.clips("gspo")), gspo=1)


def test_records_of_functions_match_the_reference(case: Case) -> None:
    gap, gate = F.gap_gate(case.student, case.teacher, case.mask, beta=case.beta)
    expected = case.raw["sdar"]["metrics"]
    assert case.mean(gap) == pytest.approx(expected["sdar/teacher_gap_mean"], abs=1e-6)
    assert case.mean(gate) == pytest.approx(expected["sdar/gate_mean"], abs=1e-6)
    assert case.mean((gate > 0.5).double()) == pytest.approx(expected["sdar/gate_active_ratio"], abs=1e-6)
    recorded = case.raw["clipped_pg"]
    _, clipped = F.clipped_policy_terms(case.student, case.old, case.advantage, case.mask, **case.clips("clipped_pg"))
    assert case.mean(clipped) == pytest.approx(recorded["clipfrac"], abs=1e-6)
    assert -case.mean(F.log_ratio(case.student, case.old, case.mask)) == pytest.approx(recorded["approx_kl"], abs=1e-6)


def test_rlsd_advantages_match_the_reference(case: Case) -> None:
    for mix, expected in case.raw["rlsd_advantage"].items():
        wanted = torch.tensor(expected, dtype=DOUBLE)
        got = F.rlsd_advantages(case.advantage, case.old, case.teacher, case.mask, mix=float(mix), clip=0.2)
        torch.testing.assert_close(got, wanted, atol=1e-6, rtol=0)
        trained = shaped(O.RLSDShaper(float(mix), clip=0.2, schedule=O.Constant()), case.inputs)
        torch.testing.assert_close(trained, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("index", range(6))
def test_group_advantages_match_the_reference(index: int) -> None:
    raw = figures()["advantages"][index]
    rewards = torch.tensor(raw["row_reward"])
    groups, episodes = torch.tensor(raw["group"]), torch.tensor(raw["trajectory"])
    settings: dict[str, tuple[Unit, Scale]] = {
        "grpo_rows_std": ("row", "std"),
        "grpo_rows_nostd": ("row", "none"),
        "grpo_trajectories_std": ("episode", "std"),
        "grpo_trajectories_nostd": ("episode", "none"),
        "rloo_rows": ("row", "leave-one-out"),
    }
    for key, (unit, scale) in settings.items():
        wanted = torch.tensor(raw[key])
        got = F.group_advantages(rewards, groups, episodes, unit=unit, scale=scale)
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0)
        trained = O.GroupAdvantage(unit, scale)(rewards, groups, episodes)
        torch.testing.assert_close(trained, wanted, atol=1e-4, rtol=0)


# ---------------------------------------------------------------------- the classes that train


def test_sdar_matches_the_reference(case: Case) -> None:
    """The whole loss, policy term and reference KL included, and what is reported of it."""
    clips = case.clips("clipped_pg")
    sdar = O.SDAR(0.3, case.beta, reference_coefficient=0.2, aggregation=case.aggregation, **clips)
    out = sdar(case.inputs)
    case.check(out.loss, clipped_pg=1, sdar=0.3, k3=0.2)
    assert out.terms["loss/distill"].item() == pytest.approx(case.raw["sdar"]["loss"], abs=1e-6)
    assert out.terms["loss/policy"].item() == pytest.approx(case.raw["clipped_pg"]["loss"], abs=1e-6)
    assert out.terms["loss/reference_kl"].item() == pytest.approx(case.raw["kl"]["k3"]["loss"], abs=1e-6)
    expected = case.raw["sdar"]["metrics"]
    assert case.mean(out.tokens["gap"]) == pytest.approx(expected["sdar/teacher_gap_mean"], abs=1e-6)
    assert case.mean(out.tokens["gate"]) == pytest.approx(expected["sdar/gate_mean"], abs=1e-6)
    assert case.mean(out.tokens["weight"]) == pytest.approx(0.3 * expected["sdar/gate_mean"], abs=1e-6)


def test_grpo_matches_the_reference(case: Case) -> None:
    out = O.GRPO(aggregation=case.aggregation, **case.clips("clipped_pg"))(case.inputs)
    case.check(out.loss, clipped_pg=1)
    assert case.mean(out.tokens["clipped"]) == pytest.approx(case.raw["clipped_pg"]["clipfrac"], abs=1e-6)
    assert case.mean(out.tokens["approx_kl"]) == pytest.approx(case.raw["clipped_pg"]["approx_kl"], abs=1e-6)


def test_opsd_and_skill_sd_match_the_reference(case: Case) -> None:
    opsd = O.Distillation(O.Likelihood(), O.GapGate(case.beta), coefficient=1.0)
    case.check(O.Objective(None, opsd, aggregation=case.aggregation)(case.inputs).loss, sdar=1)
    skill_sd = O.Distillation(O.K3(importance=True), O.ConstantGate(1.0), coefficient=0.5)
    case.check(O.Objective(None, skill_sd, aggregation=case.aggregation)(case.inputs).loss, skill_sd=0.5)


def test_gspo_matches_the_reference(case: Case) -> None:
    gspo = O.Objective(O.GSPOLoss(**case.clips("gspo")), aggregation="seq-mean-token-mean")
    case.check(gspo(case.inputs).loss, gspo=1)


@pytest.mark.parametrize("estimator", KL_ESTIMATORS)
def test_the_reference_kl_matches_the_reference(case: Case, estimator: F.KLEstimator) -> None:
    objective = O.Objective(
        O.ClippedPolicyLoss(**case.clips("clipped_pg")),
        reference_coefficient=0.5,
        reference_estimator=estimator,
        aggregation=case.aggregation,
    )
    case.check(objective(case.inputs).loss, clipped_pg=1, **{estimator: 0.5})
