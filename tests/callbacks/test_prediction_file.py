"""PredictionFile: the episodes of ``predict`` as one file, and what ``Trainer.predict`` returns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import fit, fit_here, run_here
from helpers.scripted import episode, scripted

from sdar_pl.callbacks import PredictionFile
from sdar_pl.types import Episode


def panel_of(number: int, task: str, teacher: bool) -> Episode:
    played = episode(task, task == "1")
    played.group = int(task)
    return played


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_one_line_a_task(tmp_path: Path, make_policy: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    trainer, module, data = scripted(tmp_path, make_policy(), [PredictionFile()], panel_of=panel_of, logger=False)
    returned = trainer.predict(module, data)
    assert returned is not None
    assert [[one.task.id for one in played] for played in returned] == [["0", "1", "2"]], "episodes, in Python"
    written = lines(tmp_path / "episodes.predict.jsonl")
    assert [(line["task"], line["split"], line["success"]) for line in written] == [
        ("0", "test", False),
        ("1", "test", True),
        ("2", "test", False),
    ]
    assert written[1]["turns"][-1]["action"] == "take"
    out = capsys.readouterr().out
    assert "3 tasks played, 1 succeeded" in out
    assert str(tmp_path / "episodes.predict.jsonl") in out


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``predict`` as users run it: a policy that was trained, to a file of their own."""
    run = fit_here(tmp_path, "--trainer.max_epochs", "1")
    kept = (run / "episodes.jsonl").read_bytes()
    out = tmp_path / "new" / "played.jsonl"
    options = ["--config", str(run / "config.yaml"), "--data.panel_tasks", "3", "--output", str(out)]
    assert run_here("predict", *options, "--ckpt_path", str(run / "checkpoints" / "last.ckpt")) == run
    assert len(lines(out)) == 3
    assert all(line["turns"] for line in lines(out))
    assert (run / "episodes.jsonl").read_bytes() == kept
    assert not list(run.glob("episodes.predict*"))
    capsys.readouterr()
    run_here("predict", *options[:-1], str(tmp_path), status=2)
    assert "--output: cannot write" in capsys.readouterr().err
    run_here("predict", *options[:-1], "/proc/none/out.jsonl", status=2)
    assert "--output: cannot write /proc/none/out.jsonl" in capsys.readouterr().err


@pytest.mark.slow
def test_two_ranks_write_the_file_of_one(tmp_path: Path) -> None:
    options = ["--data.panel_tasks", "5"]
    ranks = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]
    one = fit(tmp_path, "one", *options, subcommand="predict")
    two = fit(tmp_path, "two", *options, *ranks, subcommand="predict")
    assert lines(two / "episodes.predict.jsonl") == lines(one / "episodes.predict.jsonl")
    assert len(lines(one / "episodes.predict.jsonl")) == 5
    assert not list(two.glob("episodes.predict.rank*"))
