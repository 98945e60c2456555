"""Checkpoints: which files a run keeps, and what a resumed run removes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers.runs import fit_here
from helpers.scripted import episode, row, scripted

from sdar_pl.callbacks import Checkpoints
from sdar_pl.errors import UserError
from sdar_pl.runtime.metrics_csv import read_rows
from sdar_pl.types import Episode


def fit(folder: Path, policy: Any, wins: str, keep: int = 2, resumed: Path | None = None, **options: Any) -> list[str]:
    """``wins``: solved tasks of the panel after each iteration, a digit each → names of the checkpoints."""

    def panel_of(number: int, task: str, teacher: bool) -> Episode:
        return episode(task, int(task) < int(wins[number]))

    steps: list[Any] = [([row(0, [0], [1.0])], {})]
    trainer, module, data = scripted(
        folder, policy, [Checkpoints(keep=keep)], [([episode("a", True)], steps)] * len(wins),
        panel_of=panel_of, num_sanity_val_steps=0, enable_checkpointing=True, **options,
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=resumed)
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def epoch(folder: Path, name: str) -> int:
    return int(torch.load(folder / "checkpoints" / name, weights_only=True)["epoch"])


def test_the_best_is_the_first_of_equals(tmp_path: Path, make_policy: Callable[..., Any]) -> None:
    names = fit(tmp_path, make_policy(), "0221")
    assert names == ["best.ckpt", "iteration-0003.ckpt", "iteration-0004.ckpt", "last.ckpt"]
    assert (epoch(tmp_path, "best.ckpt"), epoch(tmp_path, "last.ckpt")) == (1, 3)


def test_a_worse_iteration_leaves_the_adapter_folder_alone(tmp_path: Path, make_policy: Callable[..., Any]) -> None:
    fit(tmp_path, make_policy(), "10")
    written = {name: (tmp_path / name).stat().st_mtime_ns for name in ("adapter", "checkpoints/last.ckpt")}
    assert written["adapter"] < written["checkpoints/last.ckpt"]


def test_without_validation_the_adapter_folder_is_the_last_one_s(
    tmp_path: Path, make_policy: Callable[..., Any]
) -> None:
    names = fit(tmp_path, make_policy(), "00", limit_val_batches=0)
    assert names == ["iteration-0001.ckpt", "iteration-0002.ckpt", "last.ckpt"]
    last = (tmp_path / "checkpoints" / "last.ckpt").stat().st_mtime
    assert (tmp_path / "adapter").stat().st_mtime >= last


def test_a_run_resumed_from_an_earlier_iteration_repeats_the_later_ones(
    tmp_path: Path, make_policy: Callable[..., Any]
) -> None:
    fit(tmp_path, make_policy(), "0000", keep=9)
    first = tmp_path / "checkpoints" / "iteration-0001.ckpt"
    names = fit(tmp_path, make_policy(), "00", keep=9, resumed=first)
    assert [name for name in names if name.startswith("iteration")] == ["iteration-0001.ckpt", "iteration-0002.ckpt"]


def test_a_number_out_of_range_is_refused() -> None:
    with pytest.raises(UserError, match=r"trainer\.callbacks\.Checkpoints\.keep: 0; must be ≥ 1"):
        Checkpoints(keep=0)


def test_the_row_of_an_iteration_is_written_before_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a run that is killed in between would go on with an empty row of metrics.csv."""
    rows: dict[str, dict[int, dict[str, str]]] = {}
    save = L.Trainer.save_checkpoint

    def saved(trainer: L.Trainer, path: Path, **options: Any) -> None:
        rows[Path(path).name] = read_rows(tmp_path / "run" / "metrics.csv")
        save(trainer, path, **options)

    monkeypatch.setattr(L.Trainer, "save_checkpoint", saved)
    run = fit_here(tmp_path)
    whole = read_rows(run / "metrics.csv")
    for step in (1, 2):
        assert "loss/policy" in whole[step]
        assert rows[f"iteration-{step:04d}.ckpt"][step] == whole[step]
