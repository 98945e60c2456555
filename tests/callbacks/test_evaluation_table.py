"""The table at the end of ``validate`` and ``test``: every task once, intervals, and what failed."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sdar_pl.callbacks import EvaluationTable
from sdar_pl.callbacks.evaluation_table import rates
from sdar_pl.engines.base import Sampling
from sdar_pl.types import Episode, Observation, Task, Turn


class Stage(str, Enum):
    """As Lightning's TrainerFn: equal to its text, printed as something else."""

    FITTING = "fit"
    VALIDATING = "validate"
    TESTING = "test"


def trainer(folder: Path, stage: Stage) -> Any:
    data = SimpleNamespace(
        splits={"validate": "valid_seen", "test": "valid_unseen"},
        evaluate_with_context=stage == "test",
        evaluation_sampling=Sampling(temperature=0.4),
    )
    state = SimpleNamespace(fn=stage)
    settings = {"default_root_dir": str(folder), "is_global_zero": True, "world_size": 1, "ckpt_path": None}
    return SimpleNamespace(datamodule=data, state=state, **settings)


def episode(task: str, kind: str, success: bool, failed: str = "") -> Episode:
    end = Observation("", reward=10.0 * success, done=success, success=success)
    turns = [] if failed else [Turn([1], [2], [0.0], "look", "look", True, end)]
    return Episode(Task(task, kind, ""), 0, 0, Observation(""), turns, failed=failed)


EPISODES = [
    *(episode(f"cool {i}", "cool", success=i < 3) for i in range(8)),
    episode("heat 0", "heat", success=True),
    episode("heat 1", "heat", success=False, failed="the worker has gone"),
]


def evaluate(folder: Path, stage: Stage) -> None:
    callback, module, context = EvaluationTable(), SimpleNamespace(), trainer(folder, stage)
    if stage == "test":
        callback.on_test_start(context, module)  # type: ignore[arg-type]
        callback.on_test_batch_end(context, module, EPISODES)  # type: ignore[arg-type]
        callback.on_test_end(context, module)  # type: ignore[arg-type]
    else:
        callback.on_validation_start(context, module)  # type: ignore[arg-type]
        callback.on_validation_batch_end(context, module, EPISODES)  # type: ignore[arg-type]
        callback.on_validation_end(context, module)  # type: ignore[arg-type]


def test_intervals_are_wilson_s() -> None:
    figures = rates({"a": ("cool", 1.0), **{f"b{i}": ("heat", float(i < 3)) for i in range(9)}})
    assert (figures["success"], figures["n"]) == (0.4, 10)
    # 4 of 10: 0.168 to 0.687 (Wilson 1927; Newcombe 1998 tabulates the method)
    assert figures["interval"] == pytest.approx([0.16818, 0.68733], abs=1e-5)
    assert figures["kinds"]["cool"]["interval"] == pytest.approx([0.20655, 1.0], abs=1e-5)
    assert figures["kinds"]["heat"]["n"] == 9


@pytest.mark.parametrize("stage", [Stage.VALIDATING, Stage.TESTING])
def test_a_panel(stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(tmp_path, stage)
    report = json.loads((tmp_path / f"{stage.value}.json").read_text())
    assert (report["success"], report["n"], report["failed"]) == (0.4, 10, 1)
    assert report["split"] == {"validate": "valid_seen", "test": "valid_unseen"}[stage.value]
    assert {kind: (part["success"], part["n"]) for kind, part in report["kinds"].items()} == {
        "cool": (0.375, 8),
        "heat": (0.5, 2),
    }
    assert (report["reward"], report["turns"], report["context"]) == (4.0, 0.9, stage == "test")
    said = capsys.readouterr().out
    assert f"10 tasks of {report['split']}" in said
    assert "student without privileged context" in said or report["context"]
    assert "1 failed and count as no success" in said
    assert "40.0 %" in said
    assert "16.8 – 68.7 %" in said


def test_a_training_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(tmp_path, Stage.FITTING)
    assert not list(tmp_path.iterdir())
    assert not capsys.readouterr().out
