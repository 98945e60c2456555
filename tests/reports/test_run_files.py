"""The files of a run, read for its report: what is kept, what is left out, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.report_runs import HOSTILE, episode, write_run

from sdar_pl.errors import UserError
from sdar_pl.reports.run_files import EDGES, folders_of_runs, number, read_run, safe


def test_a_run_is_read(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"), most=100)
    assert run.rows[2]["val/success"] == 0.75
    assert sum(success for _, success in run.panels[2].values()) == 6
    assert run.played == len(run.episodes) == 24
    trained = next(one for one in run.episodes if one.split == "train")
    assert (trained.context, trained.turns[0].gap) == ("Open the fridge first.", [0, -1.25, 0.5])
    counts = run.histograms["gap"][1]  # 4 episodes of 2 turns: 8 tokens of each gap
    assert dict(zip((*EDGES["gap"], None), counts, strict=True)) | {-1: 8, 5e-4: 8, 1: 8} == dict(
        zip((*EDGES["gap"], None), counts, strict=True)
    )
    assert counts.sum() == 24


def test_fewer_episodes_are_spread_evenly_and_every_one_is_counted(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", train=50)
    run = read_run(folder, most=10)
    assert len(run.episodes) == 10
    assert {one.iteration for one in run.episodes} == {0, 1, 2}
    assert (run.played, run.histograms["gap"][2].sum()) == (116, 300)
    assert read_run(folder, most=0).episodes == []


def damaged(change: dict[str, Any]) -> str:
    return json.dumps({**episode(1, "train", 0, True), **change})


@pytest.mark.parametrize(
    "line",
    [
        '{"iteration": 1, "spl',
        "[]",
        "null",
        damaged({"iteration": "first"}),
        damaged({"kind": 7}),
        damaged({"turns": 3}),
        damaged({"turns": [{"text": "a"}]}),
        damaged({"turns": [{**episode(1, "train", 0, True)["turns"][0], "gap": [1.0]}]}),
        damaged({"turns": [{**episode(1, "train", 0, True)["turns"][0], "logprobs": ["x", "y", "z"]}]}),
        "[" * 100_000,
    ],
)
def test_damaged_lines_are_left_out_with_a_warning(tmp_path: Path, line: str) -> None:
    folder = write_run(tmp_path / "run")
    with (folder / "episodes.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.warns(UserWarning, match=r"episodes\.jsonl: 1 damaged lines are left out"):
        assert read_run(folder, most=100).played == 24


def test_episodes_of_all_ranks_count_and_those_of_evaluations_do_not(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    text = (folder / "episodes.jsonl").read_text()
    for name in ("episodes.rank1.jsonl", "episodes.validate.jsonl", "episodes.test.jsonl"):
        (folder / name).write_text(text)
    assert read_run(folder, most=100).played == 48


def test_texts_keep_their_lines_and_nothing_that_acts() -> None:
    assert safe("a\nb") == "a\nb"
    for sign in ("\u202e", "\x1b", "\0", "\u2028", "\ud800"):
        assert sign not in safe(f"a{sign}b{HOSTILE}")
    assert safe("x" * 30_000).endswith("… [cut here: 30,000 characters in all]")


def test_numbers_are_short_and_finite() -> None:
    assert [number(value) for value in (0.0, 0.12345, -2.0, None)] == [0, 0.123, -2, None]
    assert number(float("nan")) is None
    assert number(float("inf")) is None


def test_a_folder_of_runs_stands_for_them(tmp_path: Path) -> None:
    for name in ("grpo/seed-0/run", "sdar/seed-0/run"):
        write_run(tmp_path / name)
    assert folders_of_runs(tmp_path) == [tmp_path / "grpo/seed-0/run", tmp_path / "sdar/seed-0/run"]
    assert folders_of_runs(tmp_path / "grpo/seed-0/run") == [tmp_path / "grpo/seed-0/run"]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^RUN: .*none: there is no such folder; name a folder"):
        folders_of_runs(tmp_path / "none")
    with pytest.raises(UserError, match=r"^RUN: .*: it holds no metrics\.csv; name a folder"):
        folders_of_runs(tmp_path)
    folder = write_run(tmp_path / "run")
    (folder / "metrics.csv").write_text("step,val/success\n")
    with pytest.raises(UserError, match=r"its metrics\.csv has no row yet; wait for"):
        read_run(folder, most=1)
    (folder / "metrics.csv").write_text("hello\n")
    with pytest.raises(UserError, match=r"not that of a metrics\.csv"):
        read_run(folder, most=1)
