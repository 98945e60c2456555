"""Checkpoint files: written whole or not at all, refused where they do not belong."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import fit_here, metrics, weights

from sdar_pl.batch import Row
from sdar_pl.errors import UserError
from sdar_pl.runtime.checkpoint_files import (
    SafeCheckpointIO,
    checkpoint_problem,
    iteration_files,
    newest_good,
    same_file,
)
from sdar_pl.runtime.run_fingerprint import fingerprint_of_run

RUN = fingerprint_of_run({"name": "base"}, "1234", None, {})
GOOD = {"state_dict": {"w": torch.arange(1000.0)}, "sdar_pl": RUN}


def saved(path: Path, content: Any = GOOD) -> Path:
    SafeCheckpointIO().save_checkpoint(content, path)
    return path


# ---------------------------------------------------------------------- writing


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "last.ckpt")

    def full(value: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"cannot write .*last\.ckpt \(No space left on device\)"):
        saved(path, {})
    assert not checkpoint_problem(path)
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("part", ["state_dict", "teacher"])
def test_weights_that_are_not_finite_leave_the_old_file(part: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "last.ckpt")
    weights = {"v": torch.zeros(2), "w": torch.tensor([0.0, torch.inf])}
    with pytest.raises(UserError, match=r"last\.ckpt is not written, as its weights are not finite \((teacher\.)?w\)"):
        saved(path, {**GOOD, part: weights})
    assert not checkpoint_problem(path)
    torch.save({**GOOD, part: weights}, path)
    assert checkpoint_problem(path).startswith("its weights are not finite (")


def test_a_second_name_is_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "iteration-0001.ckpt")
    same_file(path, "last.ckpt")
    assert (tmp_path / "last.ckpt").samefile(path)
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    same_file(path, "last.ckpt")
    assert not checkpoint_problem(tmp_path / "last.ckpt")


# ---------------------------------------------------------------------- trust


def damaged(path: Path, how: str) -> Path:
    raw = bytearray(path.read_bytes())
    if how == "cut off":
        raw = raw[: len(raw) // 2]
    elif how == "empty":
        raw = bytearray()
    elif how == "text":
        raw = bytearray(b"not a checkpoint at all")
    elif how == "a changed byte":
        raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("how", ["cut off", "empty", "text", "a changed byte"])
def test_what_is_no_checkpoint_is_found_out(how: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "some.ckpt")
    assert not checkpoint_problem(path)
    assert checkpoint_problem(damaged(path, how))
    with pytest.raises(UserError, match=r"ckpt_path: .*some\.ckpt"):
        newest_good(path)


def test_foreign_checkpoints_are_found_out(tmp_path: Path) -> None:
    assert checkpoint_problem(saved(tmp_path / "a.ckpt", {"state_dict": {}})) == "it is not a checkpoint of sdar_pl"
    torch.save([1, 2], tmp_path / "b.ckpt")
    assert checkpoint_problem(tmp_path / "b.ckpt") == "it is not a checkpoint of sdar_pl"
    older = {"state_dict": {}, "sdar_pl": {"model": {}}}
    assert checkpoint_problem(saved(tmp_path / "a.ckpt", older)) == "it is not a checkpoint of this version of sdar_pl"
    assert "cannot be read" in checkpoint_problem(
        saved(tmp_path / "c.ckpt", {"code": Row})
    )  # would run code on loading
    shutil.make_archive(str(tmp_path / "d"), "zip", tmp_path)
    assert checkpoint_problem(tmp_path / "d.zip") == "it is not a checkpoint"
    assert checkpoint_problem(tmp_path / "none.ckpt") == "there is no such file"


@pytest.mark.parametrize("how", ["cut off", "a changed byte", "gone"])
def test_a_bad_last_one_gives_way_to_the_one_before(how: str, tmp_path: Path) -> None:
    for name in ("iteration-0001.ckpt", "iteration-0002.ckpt", "last.ckpt"):
        saved(tmp_path / name)
    last = tmp_path / "last.ckpt"
    if how == "gone":
        last.unlink()
    else:
        damaged(last, how)
    with pytest.warns(UserWarning, match=r"iteration-0002\.ckpt takes its place"):
        newest_good(last)
    damaged(tmp_path / "iteration-0002.ckpt", "cut off")
    with pytest.warns(UserWarning, match=r"last\.ckpt: .*; iteration-0001\.ckpt takes its place"):
        assert newest_good(last).name == "iteration-0001.ckpt"
    damaged(tmp_path / "iteration-0001.ckpt", "empty")
    with pytest.raises(UserError):
        newest_good(last)


def test_foreign_files_in_the_folder_do_not_count(tmp_path: Path) -> None:
    for number in (10000, 9999):
        saved(tmp_path / f"iteration-{number}.ckpt")
    for name in ("iteration-best.ckpt", "iteration-0003.ckpt.bak", "iteration-.ckpt", "notes.txt"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "iteration-10001.ckpt").mkdir()
    (tmp_path / "iteration-10002.ckpt").symlink_to(tmp_path / "nowhere")
    assert [path.stem for path in iteration_files(tmp_path)] == ["iteration-9999", "iteration-10000"]
    with pytest.warns(UserWarning, match=r"iteration-10000\.ckpt takes its place"):
        assert newest_good(tmp_path / "last.ckpt").name == "iteration-10000.ckpt"


# ---------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three iterations of the tiny policy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["sdar_pl"])
        return fit_here(tmp_path_factory.mktemp("run"), "--trainer.max_epochs", "3")


def test_the_last_and_the_best_are_kept(run: Path) -> None:
    folder = run / "checkpoints"
    names = {path.name for path in folder.iterdir()}
    assert names == {"last.ckpt", "best.ckpt", "iteration-0002.ckpt", "iteration-0003.ckpt"}
    assert (folder / "last.ckpt").samefile(folder / "iteration-0003.ckpt")
    success = [row["val/success"] for row in metrics(run)][1:]
    best = torch.load(folder / "best.ckpt", weights_only=True)
    assert best["epoch"] == success.index(max(success))  # the first of equals
    assert not any(torch.is_tensor(part) and part.numel() > 50_000 for part in best["state_dict"].values())


@pytest.mark.slow
def test_a_damaged_last_checkpoint_costs_no_more_than_an_iteration(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    damaged(tmp_path / "run" / "checkpoints" / "iteration-0003.ckpt", "a changed byte")
    damaged(tmp_path / "run" / "checkpoints" / "last.ckpt", "cut off")
    with pytest.warns(UserWarning, match=r"iteration-0002\.ckpt takes its place"):
        resumed = fit_here(tmp_path, "--trainer.max_epochs", "3", "--ckpt_path", "last")
    assert metrics(resumed) == metrics(run)
    assert all(torch.equal(tensor, weights(run)[name]) for name, tensor in weights(resumed).items())


@pytest.mark.slow
def test_dropout_goes_on_where_it_was(tmp_path: Path) -> None:
    more = ("--model.policy.lora.dropout", "0.2", "--trainer.max_epochs", "2")
    whole = fit_here(tmp_path / "whole", *more)
    fit_here(tmp_path / "parts", *more[:2], "--trainer.max_epochs", "1")
    resumed = fit_here(tmp_path / "parts", *more, "--ckpt_path", "last")
    assert metrics(resumed) == metrics(whole)
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(resumed).items())
