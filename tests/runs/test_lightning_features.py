"""docs/lightning.md: every line of its tables is run, and works or is refused in one line as it says."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from helpers import CONFIGS, ROOT
from helpers.runs import fit_here, metrics

from sdar_pl.cli import main
from sdar_pl.runtime.processes import CHECKPOINT, RUN_FOLDER

pytestmark = pytest.mark.slow
#: the smallest run that has everything: two episodes of two turns, a panel of two tasks
SMALLEST = [
    *["--config", str(CONFIGS / "quickstart.yaml"), "--trainer.max_epochs", "1"],
    *["--trainer.check_val_every_n_epoch", "1", "--data.panel_tasks", "2"],
    *["--data.tasks_per_iteration", "1", "--data.group_size", "2", "--data.play.max_turns", "2"],
    *["--data.sampling.max_new_tokens", "4", "--data.evaluation.max_new_tokens", "4"],
]


class Feature(NamedTuple):
    """One line of a table."""

    command: str
    options: list[str]
    refused: bool
    iterations: int
    files: list[str]


def features() -> list[Feature]:
    """The lines of all tables of the page."""
    lines = re.findall(r"^\| `([^`]+)` \| (.+) \|$", (ROOT / "docs" / "lightning.md").read_text(), re.MULTILINE)
    found = []
    for command, result in lines:
        words = shlex.split(command)
        name = words.pop(0) if not words[0].startswith("-") else "fit"
        number = re.search(r"(\d+) iterations?", result)
        assert re.match("works|refused", result), result
        files = re.findall(r"`([\w.]+\.(?:jsonl?|csv))`", result)
        found.append(Feature(name, words, result.startswith("refused"), int(number[1]) if number else 1, files))
    return found


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Trainers leave their process group and torch's switches behind."""
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False


@pytest.mark.parametrize("feature", features(), ids=lambda feature: f"{feature.command} {shlex.join(feature.options)}")
def test_feature(
    feature: Feature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (RUN_FOLDER, CHECKPOINT):
        monkeypatch.delenv(name, raising=False)
    status = main([feature.command, *SMALLEST, "--run", "run", *feature.options])
    said = capfd.readouterr().err
    if feature.refused:
        assert status == 2
        lines = [line for line in said.splitlines() if not line.startswith("warning:")]
        assert len(lines) == 1, said
        assert re.match(r"error: (trainer|model|data|ckpt_path)[\w.]*: ", lines[0])
        return
    assert status == 0, said
    run = Path(os.environ[RUN_FOLDER])
    log = run / "episodes.jsonl"
    played = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    assert len({line["iteration"] for line in played if line["split"] == "train"}) == feature.iterations
    assert [name for name in feature.files if not (run / name).exists()] == []


def test_time_ends_a_run_between_iterations(tmp_path: Path) -> None:
    options = ["--trainer.max_epochs", "-1", "--trainer.max_time", "00:00:00:01", "--data.steps_per_iteration", "2"]
    run = fit_here(tmp_path, *options)
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    iterations = max(int(row["step"]) for row in metrics(run))
    assert iterations > 0
    assert saved["global_step"] == 2 * iterations


def test_there_are_many() -> None:
    assert len(features()) > 60
