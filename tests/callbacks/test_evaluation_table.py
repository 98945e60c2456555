"""EvaluationTable: at the end of ``validate`` and ``test``, every task once, intervals, and what failed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.scripted import Hint, episode, row, scripted

from sdar_pl.callbacks import EvaluationTable
from sdar_pl.callbacks.evaluation_table import rates
from sdar_pl.types import Episode

SPLITS = {"validate": "valid_seen", "test": "valid_unseen"}


def panel_of(number: int, task: str, teacher: bool) -> Episode:
    """Ten tasks: eight of one kind, of which three succeed; of the other one succeeds and one fails for good."""
    if task in ("8", "9"):
        return episode(task, task == "8", turns=1, kind="heat", failed="the worker has gone" if task == "9" else "")
    return episode(task, int(task) < 3, turns=1, kind="cool")


def evaluated(folder: Path, policy: Any, command: str, context: bool = False) -> None:
    trainer, module, data = scripted(
        folder, policy, [EvaluationTable()], panel_of=panel_of, panel_tasks=10, logger=False, context=Hint()
    )
    data.evaluate_with_context = context
    getattr(trainer, command)(module, data, verbose=False)


def test_intervals_are_wilson_s() -> None:
    figures = rates({"a": ("cool", 1.0), **{f"b{i}": ("heat", float(i < 3)) for i in range(9)}})
    assert (figures["success"], figures["n"]) == (0.4, 10)
    # 4 of 10: 0.168 to 0.687 (Wilson 1927; Newcombe 1998 tabulates the method)
    assert figures["interval"] == pytest.approx([0.16818, 0.68733], abs=1e-5)
    assert figures["kinds"]["cool"]["interval"] == pytest.approx([0.20655, 1.0], abs=1e-5)
    assert figures["kinds"]["heat"]["n"] == 9


@pytest.mark.parametrize("command", ["validate", "test"])
@pytest.mark.parametrize("context", [False, True])
def test_a_panel(
    command: str, context: bool, tmp_path: Path, make_policy: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(tmp_path, make_policy(), command, context)
    report = json.loads((tmp_path / f"{command}.json").read_text())
    assert (report["success"], report["n"], report["failed"]) == (0.4, 10, 1)
    assert (report["split"], report["checkpoint"], report["temperature"]) == (SPLITS[command], None, 0.4)
    assert {kind: (part["success"], part["n"]) for kind, part in report["kinds"].items()} == {
        "cool": (0.375, 8),
        "heat": (0.5, 2),
    }
    assert (report["reward"], report["turns"], report["context"]) == (4.0, 0.9, context)
    out = capsys.readouterr().out
    assert f"Success on 10 tasks of {SPLITS[command]}, student {'with' if context else 'without'} privileged" in out
    assert "1 failed and count as no success" in out
    assert "40.0 %" in out
    assert "16.8 – 68.7 %" in out


def scored(number: int, task: str, teacher: bool) -> Episode:
    """As ``panel_of``; the first two episodes have a score."""
    played = panel_of(number, task, teacher)
    if int(task) < 2:
        played.turns[-1].observation = replace(played.turns[-1].observation, score=1.0 - int(task) / 2)
    return played


def test_scores_where_an_environment_has_them(
    tmp_path: Path, make_policy: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Their mean stands beside success, over the episodes that have one."""
    trainer, module, data = scripted(
        tmp_path, make_policy(), [EvaluationTable()], panel_of=scored, panel_tasks=10, logger=False
    )
    trainer.validate(module, data, verbose=False)
    report = json.loads((tmp_path / "validate.json").read_text())
    assert report["score"] == 0.75
    assert {kind: part.get("score") for kind, part in report["kinds"].items()} == {"cool": 0.75, "heat": None}
    lines = [line for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert [line.rstrip(" │").split()[-1] for line in lines] == ["0.750", "–", "0.750"]


def test_a_training_writes_no_table(
    tmp_path: Path, make_policy: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    steps: list[Any] = [([row(0, [0], [1.0])], {})]
    trainer, module, data = scripted(
        tmp_path, make_policy(), [EvaluationTable()], [([episode("a", True)], steps)], panel_of=panel_of
    )
    trainer.fit(module, data)
    assert not list(tmp_path.glob("*.json"))
    assert not capsys.readouterr().out
