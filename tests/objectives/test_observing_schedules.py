"""Schedules that observe the run: each formula by cases worked out by hand, an objective, a run, resuming."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.losses import example
from helpers.runs import ROOT, fit_here, metrics, weights

from sdar_pl import objectives as O
from sdar_pl.cli import main
from sdar_pl.sampling.observed_figures import ObservedFigures


def factors(schedule: O.Schedule, *rows: dict[str, float]) -> list[float]:
    """The factor before the first iteration and after each row of figures."""
    found = [schedule(0)]
    for number, row in enumerate(rows, 1):
        schedule.observe(row)
        found.append(schedule(number))
    return found


def trained(*successes: float) -> list[dict[str, float]]:
    return [{"train/success": success} for success in successes]


def panel(student: float, teacher: float) -> dict[str, float]:
    return {"train/success": 0.99, "val/success": student, "val/teacher_success": teacher}


# ---------------------------------------------------------------------- formulas


def test_gats_fades_with_the_student_s_success_and_ends_for_good() -> None:
    # M_S: 0.2, (0.2 + 0.4)/2, (0.4 + 0.6)/2, (0.6 + 1.0)/2 ≥ 0.8
    found = factors(O.GATS(window=2, teacher_success=0.8), *trained(0.2, 0.4, 0.6, 1.0, 0.0, 0.0))
    assert found == pytest.approx([1, 1 - 0.2 / 0.8, 1 - 0.3 / 0.8, 1 - 0.5 / 0.8, 0, 0, 0])


def test_gats_compares_panels_with_panels() -> None:
    # between panels nothing changes; M_T = (0.8 + 0.4)/2 on the second one, M_S = (0.2 + 0.4)/2
    found = factors(O.GATS(), panel(0.2, 0.8), *trained(0.9), panel(0.4, 0.4), panel(0.9, 0.3))
    assert found == pytest.approx([1, 0.75, 0.75, 0.5, 0])


def test_a_teacher_that_never_succeeds_is_left_out() -> None:
    assert factors(O.GATS(teacher_success=0.0), *trained(0.0)) == [1, 0]


@pytest.mark.parametrize(
    ("gaps", "successes", "wanted"),
    [
        # windows of two: |−0.25|, then |−0.25| is no smaller; 0.45 = 0.9 · 0.5
        ([-0.375, -0.125, -0.0, -0.5], [0, 0, 0.4, 0.5], [1, 1, 1, 1, 0]),
        ([-0.375, -0.125, -0.0, -0.5, 0, 0], [0, 0, 0.4, 0.5, 0, 0], [1, 1, 1, 1, 0, 0, 0]),  # for good
        ([-0.375, -0.125, -0.0, -0.5], [1, 1, 0.4, 0.48], [1] * 5),  # (b) fails in the window: 0.44
        ([-0.375, -0.125, -0.0, -0.4], [0, 0, 1, 1], [1] * 5),  # (a) fails: 0.2 < 0.25
        ([-0.375, -0.125], [1, 1], [1] * 3),  # no window before
    ],
)
def test_the_teacher_retires(gaps: list[float], successes: list[float], wanted: list[float]) -> None:
    rows = [{"gap/mean": gap, "train/success": s} for gap, s in zip(gaps, successes, strict=True)]
    assert factors(O.RetireOPD(window=2, teacher_success=0.5), *rows) == wanted


def test_a_window_without_a_panel_does_not_retire_the_teacher() -> None:
    stalled = {"gap/mean": -0.3}
    schedule = O.RetireOPD(window=1)
    assert factors(schedule, stalled | panel(0.1, 0.8), stalled, stalled | panel(0.8, 0.8)) == [1, 1, 1, 0]


def test_tide_passes_weight_while_the_gap_levels_off() -> None:
    # m: 1, 0.99, 0.745, 0.8725; I: –, 0.01 (in (0, ζ]), 0.247 (> ζ), −0.171 (< 0)
    schedule = O.TIDE(window=2, decay=0.5)
    rows = [{"distill/turn_gap": magnitude} for magnitude in (1.0, 0.98, 0.5, 1.0)]
    assert factors(schedule, *rows[:1]) == [1, 1]
    assert schedule.policy_factor(1) == pytest.approx(0.1)
    assert factors(schedule, *rows[1:2]) == pytest.approx([1, 0.1 + 0.9 * 0.98])
    assert schedule.policy_factor(2) == pytest.approx(0.1 + 0.9 * 0.02)
    assert factors(schedule, *rows[2:], {}) == pytest.approx([0.982] * 4)


def test_tide_compares_with_the_first_of_its_window_and_ends_at_its_floor() -> None:
    # G falls by 1 % of 1 an iteration and decay is 0, so that m = G; over W = 3 the decline is about 2 %
    schedule = O.TIDE(window=3, threshold=0.021, step=0.6, decay=0.0, floor=0.25)
    found = factors(schedule, *({"distill/turn_gap": 1 - 0.01 * k} for k in range(5)))
    assert found == pytest.approx([1, 1, 1, 0.25 + 0.75 * 0.4, 0.25, 0.25])
    assert schedule.policy_factor(5) == 1


# ---------------------------------------------------------------------- in an objective


def test_weight_passes_to_the_policy_loss() -> None:
    schedule = O.TIDE(window=2, decay=0.0, step=0.5, floor=0.0)
    objective = O.Objective(distillation=O.Distillation(coefficient=0.8, schedule=schedule))
    for magnitude, policy, teacher in ((1.0, 0, 1), (0.99, 0.5, 0.5), (0.98, 1, 0)):
        schedule.observe({"distill/turn_gap": magnitude})
        terms = objective(example()).terms
        torch.testing.assert_close(
            terms["loss/total"], policy * terms["loss/policy"] + 0.8 * teacher * terms["loss/distill"]
        )


def test_the_teacher_reads_while_a_schedule_is_above_0() -> None:
    falling = O.Linear(1.0, 0.0, 2)
    for objective in (O.SDAR(schedule=falling), O.Objective(shaper=O.RLSDShaper(schedule=falling))):
        assert [objective.reads_teacher(k) for k in range(4)] == [True, True, False, False]
        inputs = replace(example(), iteration=2)
        unread = replace(inputs, teacher_logprobs=None)
        assert torch.equal(objective(unread).loss, objective(inputs).loss), "what is not read changes nothing"
    assert O.SDAR(coefficient=0.0).reads_teacher(9), "λ = 0 is for the reports"
    assert O.Objective(shaper=O.GRSDShaper()).reads_teacher(9)
    assert not O.GRPO().reads_teacher(0)


def test_the_state_is_plain_and_comes_back() -> None:
    def observed(schedule: O.Schedule) -> ObservedFigures:
        return ObservedFigures(O.SDAR(schedule=schedule))

    rows = [panel(0.1 * k, 0.9) | {"gap/mean": -0.2, "distill/turn_gap": 1 - 0.001 * k} for k in range(6)]
    for make in (O.GATS, O.RetireOPD, O.TIDE):
        whole, first, second = (make(window=2) for _ in range(3))
        run = observed(whole)
        for row in rows:
            run.add(row)
            run.end_iteration()
        run = observed(first)
        for row in rows[:3]:
            run.add(row)
            run.end_iteration()
        run.add(rows[3])  # of an iteration that has not ended
        file = io.BytesIO()
        torch.save(run.state_dict(), file)
        resumed = observed(second)
        resumed.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
        for row in ({}, *rows[4:]):
            resumed.add(row)
            resumed.end_iteration()
        assert vars(second) == vars(whole)
        assert second.state_dict() != make(window=2).state_dict()


# ---------------------------------------------------------------------- in a run


PANEL = "--trainer.callbacks+=sdar_pl.callbacks.TeacherPanel"


def config(name: str) -> list[str]:
    return ["--config", str(ROOT / "configs" / "objectives" / f"{name}.yaml")]


KEY = "--model.objective.init_args.distillation.init_args.schedule.init_args"
GATS = [*config("gats"), f"{KEY}.teacher_success", "0"]


def test_a_retired_teacher_reads_nothing(tmp_path: Path) -> None:
    first, second = metrics(fit_here(tmp_path, *GATS, "--trainer.limit_val_batches", "0"))
    assert (first["distill/coefficient"], second["distill/coefficient"]) == (1, 0)
    assert first["loss/distill"] != 0
    assert not [name for name in second if name.startswith(("gap/", "gate/", "loss/distill", "distill/turn_gap"))]
    assert second["loss/total"] == pytest.approx(second["loss/policy"] + 0.01 * second["loss/reference_kl"], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "options"), [("gats", []), ("retire_opd", [PANEL, "--trainer.limit_val_batches", "0"])]
)
def test_a_teacher_that_nobody_measures_is_refused_at_the_start(
    name: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", str(ROOT / "configs" / "quickstart.yaml"), *config(name), *options]
    assert main(["fit", *words, "--trainer.default_root_dir", str(tmp_path)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert "schedule.init_args.teacher_success: null" in line
    assert PANEL in line
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "learnt"),
    [
        ("gats", [PANEL, f"{KEY}.window", "1"], "_teacher"),
        ("retire_opd", [PANEL, f"{KEY}.window", "1"], "_last_gap"),
        ("tide", [f"{KEY}.window", "2", f"{KEY}.threshold", "1", f"{KEY}.step", "0.5"], "_means"),
    ],
)
def test_a_resumed_schedule_equals_the_uninterrupted_one(
    name: str, options: list[str], learnt: str, tmp_path: Path
) -> None:
    words = [*config(name), *options, "--model.teacher_refresh", "step", "--trainer.max_epochs", "3"]
    whole = fit_here(tmp_path / "whole", *words)
    second = str(whole / "checkpoints" / "iteration-0002.ckpt")
    assert torch.load(second, weights_only=True)["schedules"]["schedules"][0][learnt]
    resumed = fit_here(tmp_path / "resumed", *words, "--ckpt_path", second)
    assert metrics(resumed)[-1] == metrics(whole)[-1]
    ours, theirs = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (resumed, whole))
    assert ours["schedules"] == theirs["schedules"]
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(resumed).items())
