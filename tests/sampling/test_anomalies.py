"""Anomalies: what is kept of a skipped step, and its limits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.builders import a_row, an_episode

from sdar_pl.batch import collate
from sdar_pl.sampling import anomalies
from sdar_pl.sampling.anomalies import Anomalies
from sdar_pl.sampling.iteration import Iteration

HEAD = {"iteration": 3, "step": 2, "gradients": [f"w{k}" for k in range(30)]}


@pytest.fixture
def step() -> tuple[Anomalies, Iteration]:
    """Two micro-batches of an iteration's three; a value of the second row of the second is not finite."""
    rows = [replace(a_row(number, 9, [(2, 4), (6, 9)]), episode=number) for number in range(6)]
    rows[5].teacher_logprobs = [0.0, -1.0, torch.inf, -3.0, -4.0]
    rows[4].teacher_logprobs = [-0.5] * 5
    blank = replace(a_row(9, 2, []), teacher_logprobs=[])
    batches = [collate(rows[:2]), collate(rows[2:4]), collate([blank, rows[4], rows[5]])]
    kept = Anomalies()
    kept.saw(1, torch.tensor(0.25), torch.full((2, 5), -0.125), None)
    kept.saw(2, torch.tensor(torch.nan), torch.full((3, 5), -0.25), batches[2].teacher_logprobs)
    return kept, Iteration(2, [replace(an_episode(), index=k) for k in range(6)], batches, 2)


def written(path: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    return content


def test_rows_with_values_that_are_not_finite_come_first(step: tuple[Anomalies, Iteration], tmp_path: Path) -> None:
    path = tmp_path / "anomalies" / "iteration-0003-step-2.json"
    kept, iteration = step
    assert kept.write(iteration, path, HEAD)
    content = written(path)
    assert (content["iteration"], content["step"], content["losses"]) == (3, 2, [0.25, "nan"])
    assert content["gradients"] == HEAD["gradients"][: anomalies.NAMES]  # type: ignore[index]
    assert content["rows_of_the_step"] == 4
    rows = content["rows"]
    assert isinstance(rows, list)
    assert [(row["index"], row["micro_batch"], row["not_finite"]) for row in rows] == [
        (5, 2, ["teacher_logprobs"]),
        (2, 1, []),
        (3, 1, []),
        (4, 2, []),
    ]
    assert rows[0]["teacher_logprobs"] == [0.0, -1.0, "inf", -3.0, -4.0]
    assert rows[0]["student_logprobs"] == [-0.25] * 5
    assert rows[0]["tokens"] == a_row(5, 9, []).tokens
    assert rows[0]["positions"] == [2, 3, 6, 7, 8]
    assert (rows[0]["task"], rows[0]["group"]) == ("t", 3)
    assert "teacher_logprobs" not in rows[1]


def test_a_new_step_forgets_the_one_before(step: tuple[Anomalies, Iteration], tmp_path: Path) -> None:
    kept, iteration = step
    kept.begin_step()
    kept.saw(0, torch.tensor(1.0), torch.zeros(2, 5), None)
    assert kept.write(iteration, tmp_path / "a.json", HEAD)
    assert written(tmp_path / "a.json")["rows_of_the_step"] == 2


def test_files_rows_and_tokens_are_bounded(
    step: tuple[Anomalies, Iteration], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, iteration = step
    monkeypatch.setattr(anomalies, "ROWS", 2)
    monkeypatch.setattr(anomalies, "TOKENS", 3)
    for number in range(anomalies.FILES):
        assert kept.write(iteration, tmp_path / f"{number}.json", HEAD)
    content = written(tmp_path / "0.json")
    rows = content["rows"]
    assert isinstance(rows, list)
    assert (content["rows_of_the_step"], len(rows)) == (4, 2)
    for row in rows:
        assert (row["tokens_of_the_row"], len(row["tokens"]), len(row["advantages"])) == (9, 3, 3)
    assert not kept.write(iteration, tmp_path / "one-more.json", HEAD)
    assert kept.write(iteration, tmp_path / "0.json", HEAD), "a resumed run repeats a step"
    assert kept.write(iteration, tmp_path / "0.rank1.json", HEAD), "each rank has its own"
    assert len(list(tmp_path.iterdir())) == anomalies.FILES + 1


def test_a_folder_that_cannot_be_written_ends_no_run(step: tuple[Anomalies, Iteration], tmp_path: Path) -> None:
    (tmp_path / "anomalies").write_text("a file")
    kept, iteration = step
    assert not kept.write(iteration, tmp_path / "anomalies" / "a.json", HEAD)
