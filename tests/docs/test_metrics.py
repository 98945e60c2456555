"""docs/metrics.md names every column and key that a run writes, and none that the code does not know."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from helpers import CONFIGS, ROOT
from helpers.runs import fit_here, run_here
from helpers.warmups import warmup_here

PAGE = (ROOT / "docs" / "metrics.md").read_text()
pytestmark = pytest.mark.slow  # a fit, a validation and a test of its policy


def section(title: str) -> str:
    """The text below a heading, up to the next of the same level."""
    level = re.match(r"#+", title)
    assert level is not None
    return PAGE.split(f"\n{title}\n")[1].split(f"\n{level[0]} ")[0]


def names(text: str) -> set[str]:
    """What stands in backticks in the first cells of the tables of ``text``."""
    cells = re.findall(r"^\| (`[^|]*`) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def columns() -> set[str]:
    """The columns of metrics.csv; ``<kind>`` stands for any kind."""
    named = names(section("## metrics.csv"))
    suffixes = {name for name in named if name.startswith("/")}
    split = {name + suffix for name in named if name.startswith(("gap/", "gate/")) for suffix in suffixes}
    return (named - suffixes) | split


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A run with every optional term and the teacher's panel, which was validated and tested, and one with refills."""
    folder = tmp_path_factory.mktemp("runs")
    options = ["entropy_coefficient", "reference_coefficient"]
    full = fit_here(
        folder,
        *["--config", str(CONFIGS / "objectives" / "sdar.yaml"), "--data.play.max_turns", "13"],
        # some groups with rewards that differ, some without
        *["--data.tasks_per_iteration", "6", "--data.group_size", "3", "--trainer.max_epochs", "1"],
        *["--data.environment.init_args.test_tasks", "6"],
        *(word for option in options for word in (f"--model.objective.init_args.{option}", "0.01")),
        *["--model.importance_cap", "2", "--trainer.callbacks+=sdar_pl.callbacks.TeacherPanel"],
    )
    for stage in ("validate", "test"):
        run_here(stage, "--config", str(full / "config.yaml"), "--ckpt_path", str(full / "checkpoints" / "last.ckpt"))
    rewards = ["--data.rewards", "RewardSum", "--data.rewards.parts", '["Outcome", "PathEfficiency"]']
    warmup = warmup_here(folder, "warmup", "--trainer.max_epochs", "1")
    return [full, fit_here(folder, "--data.max_refills", "1", *rewards), warmup]


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def keys(objects: Iterable[dict[str, Any]]) -> set[str]:
    return {key for one in objects for key in one}


def test_columns(runs: list[Path]) -> None:
    seen = set()
    for run in runs:
        with (run / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        seen |= {name for name in rows[0] if any(row[name] for row in rows)}
    kinds = {name for name in seen if re.match(r"val/success/\w+$", name)}
    parts = {"reward/outcome", "reward/path"}
    assert kinds
    assert parts < seen
    on_servers = {"rollout/age", "time/wait_s"}  # of data.ahead: tests/sampling/test_kept_rollouts.py
    assert columns() == (seen - kinds - parts) | {"val/success/<kind>", "reward/<part>"} | on_servers


def test_keys_of_episodes(runs: list[Path]) -> None:
    episodes = [line for run in runs for line in written(run / "episodes.jsonl")]
    before, after = section("## episodes.jsonl").split("Of each turn:")
    assert names(before) == keys(episodes)
    assert names(after) == keys(turn for episode in episodes for turn in episode["turns"])
    assert {path.name for path in runs[0].glob("episodes.*.jsonl")} == {
        "episodes.validate.jsonl",
        "episodes.test.jsonl",
    }


def test_keys_of_the_summary(runs: list[Path]) -> None:
    assert names(section("## summary.json")) == keys([json.loads((runs[0] / "summary.json").read_text())])


def test_keys_of_an_evaluation(runs: list[Path]) -> None:
    for file in ("validate.json", "test.json"):
        told = names(section("## validate.json and test.json")) - {"score"}  # the household has none
        assert told == keys([json.loads((runs[0] / file).read_text())])


def test_other_files(runs: list[Path]) -> None:
    files = names(section("## Other files of a run").split("`compare` writes")[0])
    patterns = files - {"checkpoints/iteration-0008.ckpt", "anomalies/"}
    assert all(list(runs[0].glob(pattern)) for pattern in patterns), patterns
