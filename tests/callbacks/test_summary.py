"""Summary: the first and the last panel of a run, paired by task; a resumed run keeps its first panel."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.scripted import episode, row, scripted

from sdar_pl.callbacks import Checkpoints, EpisodeLog, Summary
from sdar_pl.callbacks.summary import compare
from sdar_pl.types import Episode


def test_tasks_are_paired() -> None:
    before = {"a": ("look", 0.0), "b": ("look", 1.0), "c": ("heat", 0.0), "gone": ("heat", 1.0)}
    after = {"a": ("look", 1.0), "b": ("look", 1.0), "c": ("heat", 0.0)}
    report = compare(before, after)
    assert report is not None
    assert (report["before"], report["after"], report["n"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3), 3)
    assert report["difference"] == pytest.approx(1 / 3)
    assert report["interval"] == [0.0, 1.0]
    assert report["kinds"] == {
        "look": {"before": 0.5, "after": 1.0, "n": 2},
        "heat": {"before": 0.0, "after": 0.0, "n": 1},
    }
    assert compare({}, after) is None


def fit(folder: Path, policy: Any, epochs: int, resumed: bool = False) -> None:
    """At the panel of iteration i, the tasks below i succeed."""
    first = 1 + epochs // 2 if resumed else 0

    def panel_of(number: int, task: str, teacher: bool) -> Episode:
        return episode(task, int(task) < number + first)

    steps: list[Any] = [([row(0, [0], [1.0])], {})]
    callbacks = [Checkpoints(), EpisodeLog(), Summary()]
    rollouts = [([episode("a", True)], steps)] * epochs
    trainer, module, data = scripted(folder, policy, callbacks, rollouts, panel_of=panel_of, enable_checkpointing=True)
    trainer.fit(module, data, ckpt_path=folder / "checkpoints" / "last.ckpt" if resumed else None)


def test_a_resumed_run_adds_its_seconds() -> None:
    summary = Summary()
    summary.load_state_dict({**summary.state_dict(), "seconds": 100.0})
    assert 100 < summary.state_dict()["seconds"] < 110


def test_a_fit_and_its_resumption(
    tmp_path: Path, make_policy: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path, make_policy(), 1)
    assert "validate --config" not in capsys.readouterr().out, "of a run that was started from Python"
    (tmp_path / "config.yaml").write_text("")
    report = json.loads((tmp_path / "summary.json").read_text())
    assert (report["iterations"], report["before"], report["after"]) == ([0, 1], 0.0, pytest.approx(1 / 3))
    fit(tmp_path, make_policy(), 2, resumed=True)
    after = json.loads((tmp_path / "summary.json").read_text())
    assert (after["iterations"], after["before"], after["after"]) == ([0, 2], 0.0, pytest.approx(2 / 3))
    assert after["n"] == after["kinds"]["echo"]["n"] == 3
    out = capsys.readouterr().out
    assert f"tensorboard --logdir {tmp_path}" in out
    assert f"validate --config {tmp_path / 'config.yaml'} --ckpt_path {tmp_path / 'checkpoints' / 'best.ckpt'}" in out
    assert "interval of the difference (paired over tasks)" in out
    assert f"report       {tmp_path / 'report.html'}" in out


def test_a_report_that_would_take_long_is_left_to_its_command(
    tmp_path: Path, make_policy: Callable[..., Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdar_pl.callbacks.summary.MOST_FOR_REPORT", 100)
    fit(tmp_path, make_policy(), 1)
    assert not (tmp_path / "report.html").exists()
    assert f"-m sdar_pl report {tmp_path}" in capsys.readouterr().out


def test_a_report_that_fails_does_not_fail_the_run(tmp_path: Path, make_policy: Callable[..., Any]) -> None:
    (tmp_path / "config.yaml").write_text("[broken")
    with pytest.warns(UserWarning, match=r"no report\.html: "):
        fit(tmp_path, make_policy(), 1)
    assert (tmp_path / "summary.json").exists()
