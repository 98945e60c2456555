"""A whole run on real ALFWorld games: configs/alfworld/tiny.yaml trains and is evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.alfworld import command
from helpers.runs import metrics, run_here


@pytest.mark.slow
def test_the_tiny_config_trains_and_is_evaluated(tmp_path: Path) -> None:
    panel = ("--data.panel_tasks", "12", "--data.play.max_turns", "12")
    iterations = ("--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "2")
    folder = run_here(*command("fit", tmp_path), *panel, *iterations, "--data.tasks_per_iteration", "4")
    rows = metrics(folder)
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert ["val/success" in row for row in rows] == [True, False, True]
    for row in rows[1:]:
        assert 0 < row["gate/mean"] < 1
        assert row["rollout/failed"] == 0
    assert len({row["loss/total"] for row in rows[1:]}) == 2
    checkpoint = ("--ckpt_path", str(folder / "checkpoints" / "last.ckpt"))
    for context in ("false", "true"):
        shown = ("--data.evaluate_with_context", context)
        assert run_here(*command("test", tmp_path), *panel, *checkpoint, *shown) == folder
        report = json.loads((folder / "test.json").read_text())
        episodes = [json.loads(line) for line in (folder / "episodes.test.jsonl").open()]
        assert len({episode["task"] for episode in episodes}) == len(episodes) == report["n"] == 12
        assert all(episode["task"].startswith("valid_unseen/") for episode in episodes)
        assert report["context"] is (context == "true")
        assert report["success"] == sum(episode["success"] for episode in episodes) / 12
        assert sum(kind["n"] for kind in report["kinds"].values()) == 12
        low, high = report["interval"]
        assert 0 <= low <= report["success"] <= high <= 1
