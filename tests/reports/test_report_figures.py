"""The figures of a report: groups, curves, histograms, kinds, time and settings of runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.report_runs import write_run

from sdar_pl.reports.report_figures import curve, differences, figures, groups_of
from sdar_pl.reports.run_files import RunFiles, read_run
from sdar_pl.reports.statistics import wilson


def runs_below(folder: Path, *names: str) -> list[RunFiles]:
    """Runs at ``<method>/seed-<n>/run``; a method is its objective."""
    made = []
    for name in names:
        method, seed = name.split("/")
        made.append(read_run(write_run(folder / method / seed / "run", int(seed[-1]), method.upper()), 100))
    return made


def test_seeds_of_one_configuration_are_a_group(tmp_path: Path) -> None:
    runs = runs_below(tmp_path, "grpo/seed-0", "sdar/seed-0", "grpo/seed-1", "sdar/seed-1")
    assert [(group.name, group.runs) for group in groups_of(runs)] == [("grpo", [0, 2]), ("sdar", [1, 3])]
    (alone,) = groups_of(runs[:1])
    assert alone.name == "GRPO", "one group is named after its objective"
    names = [run["name"] for run in figures(runs)["runs"]]
    assert names == ["grpo · seed 0", "sdar · seed 0", "grpo · seed 1", "sdar · seed 1"]


def test_runs_without_a_configuration_stand_alone(tmp_path: Path) -> None:
    runs = runs_below(tmp_path, "a/seed-0", "a/seed-1")
    for run in runs:
        run.config = {}
    assert [group.runs for group in groups_of(runs)] == [[0], [1]]


def test_success_has_the_interval_of_its_panel_and_other_columns_the_range_of_seeds(tmp_path: Path) -> None:
    runs = runs_below(tmp_path, "sdar/seed-0", "sdar/seed-1")
    runs[1].rows[1]["gate/mean"] = 0.6
    assert curve(runs[:1], "val/success")[1] == pytest.approx([2, *wilson(6, 8)], abs=1e-6)
    step, mean, low, high = curve(runs, "val/success")[1]
    assert (step, mean) == (2, 0.75)
    assert low < 0.75 < high
    assert curve(runs, "gate/mean")[0] == pytest.approx([1, 0.55, 0.5, 0.6])
    runs[1].panels = {}
    assert curve(runs, "val/success")[1] == [2, 0.75, 0.75, 0.75], "no episodes.jsonl, no interval"


def test_figures_of_a_comparison(tmp_path: Path) -> None:
    data = figures(runs_below(tmp_path, "grpo/seed-0", "sdar/seed-0"))
    assert [row["key"] for row in data["settings"]] == ["model.objective.class_path"]
    assert data["settings"][0]["values"] == ["sdar_pl.objectives.GRPO", "sdar_pl.objectives.SDAR"]
    (panel,) = [chart for chart in data["charts"] if chart["title"] == "Success on the panel"]
    assert [(series["group"], series["dashed"]) for series in panel["series"]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [row["kind"] for row in data["kinds"]] == ["heat", "look"]
    before, after = data["kinds"][0]["groups"][0]
    assert (before.mean, after.mean) == (0.25, 0.75)
    assert data["phases"] == [{"rollout": 3.0, "update": 4.0}] * 2
    for one in data["histograms"]:
        assert all(sum(shares) == pytest.approx(1, abs=1e-3) for shares in one["shares"])
    assert data["groups"][0]["seconds"] == 14.0


def test_settings_are_named_in_full_and_a_missing_one_is_none() -> None:
    one = {"seed_everything": 0, "model": {"objective": {"class_path": "X", "init_args": {"beta": 1}}}}
    other = {"seed_everything": 1, "model": {"objective": {"class_path": "X"}}, "run": "b"}
    assert differences([one, other]) == [{"key": "model.objective.beta", "values": ["1", None]}]
