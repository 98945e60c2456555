"""TeacherPanel: the teacher plays what the student plays, with its own weights, and training does not notice."""

from __future__ import annotations

import contextlib
import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.runs import ROOT, fit_here, metrics, same
from lightning.pytorch.trainer.states import TrainerFn

from sdar_pl.callbacks import TeacherPanel
from sdar_pl.cli import main
from sdar_pl.types import Task

PANEL = ["--trainer.callbacks+=sdar_pl.callbacks.TeacherPanel"]
LONGER = ["--data.play.max_turns", "12", "--data.environment.init_args.validation_tasks", "12"]
CURRENT = ["--config", str(ROOT / "configs" / "teachers" / "current.yaml")]
AVERAGE = ["--config", str(ROOT / "configs" / "teachers" / "ema.yaml")]


def teacher(run: Path) -> list[float]:
    return [row["val/teacher_success"] for row in metrics(run)]


@pytest.mark.slow
def test_it_is_what_validate_measures_and_training_is_the_same(tmp_path: Path) -> None:
    options = [*LONGER, "--data.evaluation.max_new_tokens", "24", "--data.sampling.max_new_tokens", "24"]
    run, plain = fit_here(tmp_path / "a", *options, *CURRENT, *PANEL), fit_here(tmp_path / "b", *options, *CURRENT)
    found = teacher(run)
    assert len(found) == 3
    assert found[0] > metrics(run)[0]["val/success"], "the packaged policy does better with its skills"
    # same() compares the metrics, too; what the teacher did is all that may differ.
    text = (run / "metrics.csv").read_text()
    (run / "metrics.csv").write_text(text.replace("val/teacher_success", "time/of_the_teacher"))
    same(run, plain)
    shown = ["--data.evaluate_with_context", "true", "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    assert main(["validate", "--config", str(run / "config.yaml"), *shown]) == 0
    assert json.loads((run / "validate.json").read_text())["success"] == pytest.approx(found[-1])


@pytest.mark.slow
def test_it_plays_with_the_teachers_weights(tmp_path: Path) -> None:
    fast = [*LONGER, *PANEL, "--model.optimizer.init_args.lr", "0.03"]  # which no policy survives
    current = teacher(fit_here(tmp_path / "current", *fast, *CURRENT))
    initial = teacher(fit_here(tmp_path / "initial", *fast))  # the quickstart's
    average = teacher(fit_here(tmp_path / "ema", *fast, *AVERAGE, "--model.teacher.init_args.decay", "0"))
    assert initial == [initial[0]] * 3
    assert current[0] == initial[0]
    assert current[-1] < initial[-1]
    assert average == current


# ---------------------------------------------------------------------- what it says


def told(student: list[float], taught: list[float], followed: bool = True) -> tuple[dict[str, float], list[str]]:
    """What is logged and warned of for successes on the panel."""
    tasks = [Task(id=str(n), kind="look", text="") for n in range(len(student))]
    played = [
        [SimpleNamespace(task=t, success=s) for t, s in zip(tasks, who, strict=True)] for who in (student, taught)
    ]
    written: dict[str, float] = {}
    trainer: Any = SimpleNamespace(
        state=SimpleNamespace(fn=TrainerFn.FITTING),
        is_global_zero=True,
        precision_plugin=SimpleNamespace(forward_context=contextlib.nullcontext),
        datamodule=SimpleNamespace(panel_share=lambda _: [], evaluate=lambda numbered, as_teacher: played[1]),
        lightning_module=SimpleNamespace(write=written.update, objective=SimpleNamespace(needs_teacher=followed)),
    )
    panel, module = TeacherPanel(), trainer.lightning_module
    panel.on_validation_start(trainer, module)
    panel.on_validation_batch_end(trainer, module, played[0], None, 0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        panel.on_validation_epoch_end(trainer, module)
    return written, [str(warning.message) for warning in caught]


def test_a_teacher_that_does_worse_is_pointed_at() -> None:
    written, said = told([1.0] * 15 + [0.0] * 5, [1.0] * 5 + [0.0] * 15)
    assert written == {"val/teacher_success": 0.25}
    (warning,) = said
    assert "the teacher succeeds on 25.0 % of the panel, the student on 75.0 %" in warning
    assert told([1.0] * 15 + [0.0] * 5, [1.0] * 5 + [0.0] * 15, followed=False) == (written, []), "nobody listens to it"


@pytest.mark.parametrize("taught", [[1.0] * 20, [1.0] * 14 + [0.0] * 6])
def test_a_better_one_and_a_difference_by_chance_are_not(taught: list[float]) -> None:
    assert told([1.0] * 15 + [0.0] * 5, taught)[1] == []


@pytest.mark.parametrize(
    ("context", "words"),
    [
        (
            ["--config", str(ROOT / "configs" / "objectives" / "grpo.yaml"), "--data.context", "NoContext"],
            "there is none",
        ),
        (["--config", str(ROOT / "configs" / "contexts" / "hindsight.yaml")], "it is made of finished episodes"),
    ],
)
def test_without_a_context_to_show(
    context: list[str], words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fit_here(tmp_path, *PANEL, *context, status=2)
    said = capfd.readouterr().err
    assert said.startswith("error: trainer.callbacks: TeacherPanel shows")
    assert words in said
    assert said.count("\n") == 1
