"""TeacherPanel: the teacher plays what the student plays, with its own weights, and training does not notice."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import ROOT, fit_here, metrics, same
from helpers.scripted import Hint, episode, fit_script, row

from sdar_pl.callbacks import TeacherPanel, Watchdog
from sdar_pl.cli import main
from sdar_pl.objectives import GRPO, SDAR
from sdar_pl.types import Episode

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
    success = teacher(run)
    assert len(success) == 3
    assert success[0] > metrics(run)[0]["val/success"], "the packaged policy does better with its skills"
    same(run, plain, but="val/teacher_success")
    shown = ["--data.evaluate_with_context", "true", "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    assert main(["validate", "--config", str(run / "config.yaml"), *shown]) == 0
    assert json.loads((run / "validate.json").read_text())["success"] == pytest.approx(success[-1])


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


# ---------------------------------------------------------------------- its figure and its warning


@pytest.fixture
def panel(tmp_path: Path, make_policy: Callable[..., Any]) -> Callable[..., tuple[float, list[str]]]:
    """How many of 20 tasks the student and the teacher win → the logged figure, and the warnings about it."""

    def run(student: int, taught: int, followed: bool = True) -> tuple[float, list[str]]:
        def panel_of(number: int, task: str, teacher: bool) -> Episode:
            return episode(task, int(task) < (taught if teacher else student))

        steps: list[Any] = [([row(0, [0], [1.0])], {})]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit_script(
                *(tmp_path, make_policy(), [TeacherPanel(), Watchdog()], [([episode("a", True)], steps)]),
                **{"panel_of": panel_of, "panel_tasks": 20, "num_sanity_val_steps": 0},
                **{"objective": SDAR() if followed else GRPO(), "context": Hint()},
            )
        said = [str(warning.message) for warning in caught if "the teacher succeeds" in str(warning.message)]
        return metrics(tmp_path)[-1]["val/teacher_success"], said

    return run


def test_a_teacher_that_does_worse_is_pointed_at(panel: Callable[..., tuple[float, list[str]]]) -> None:
    share, said = panel(15, 5)
    assert share == 0.25
    (warning,) = said
    assert "the teacher succeeds on 25.0% of the panel, the student on 75.0%" in warning


def test_a_teacher_that_nothing_follows_is_not(panel: Callable[..., tuple[float, list[str]]]) -> None:
    assert panel(15, 5, followed=False) == (0.25, [])


@pytest.mark.parametrize("taught", [20, 14])
def test_a_better_one_and_a_difference_by_chance_are_not(
    taught: int, panel: Callable[..., tuple[float, list[str]]]
) -> None:
    assert panel(15, taught) == (pytest.approx(taught / 20), [])


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
