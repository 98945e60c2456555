"""The run folder: a free name for a new run, the old folder for a resumed one."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from jsonargparse import Namespace

from sdar_pl.errors import UserError
from sdar_pl.runtime.processes import RUN_FOLDER
from sdar_pl.runtime.run_folder import resume_command, run_folder


@pytest.fixture(autouse=True)
def _no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_FOLDER, "")


def choose(root: Path, resumed: str | None = None, name: str | None = "mine", config: list[str] | None = None) -> Path:
    """The folder of a run in a process of its own."""
    os.environ[RUN_FOLDER] = ""
    settings = Namespace(trainer=Namespace(default_root_dir=str(root)), run=name, config=config)
    folder = run_folder(settings, resumed)
    assert os.environ[RUN_FOLDER] == str(folder), "for the other ranks"
    return folder


def checkpoint(folder: Path, seconds: int) -> Path:
    path = folder / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    path.write_text("")
    os.utime(path, (seconds, seconds))
    return path


def test_new_runs_do_not_overwrite_each_other(tmp_path: Path) -> None:
    for expected in ("mine", "mine-2", "mine-3"):
        folder = choose(tmp_path)
        assert folder == tmp_path / expected
        (folder / "metrics.csv").write_text("")


def test_a_folder_that_a_refused_run_has_left_empty_is_used_again(tmp_path: Path) -> None:
    assert choose(tmp_path) == choose(tmp_path) == tmp_path / "mine"


def test_the_config_names_a_run_without_a_name(tmp_path: Path) -> None:
    assert choose(tmp_path, name=None, config=["a/sdar.yaml", "b/grpo.yaml"]).name == "sdar"
    assert choose(tmp_path, name=None).name == "run"


def test_last_is_of_the_run_with_the_newest_checkpoint(tmp_path: Path) -> None:
    for name, seconds in ("mine", 200), ("mine-2", 300), ("mine-3", 100), ("other", 400):
        checkpoint(tmp_path / name, seconds)
    for word in "last", "best":
        assert choose(tmp_path, word) == tmp_path / "mine-2"
    with pytest.raises(UserError, match="no earlier run 'none'"):
        choose(tmp_path, "last", name="none")


def test_a_checkpoint_s_own_folder_goes_on(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "elsewhere" / "old", 1)
    assert choose(tmp_path, str(path)) == tmp_path / "elsewhere" / "old"
    alone = tmp_path / "alone.ckpt"
    assert choose(tmp_path, str(alone)) == tmp_path / "mine", "a new run that starts from a file from anywhere"


def test_the_command_that_resumes_a_run() -> None:
    config, path = re.findall(r"--\w+ (\S+)", resume_command(Path("runs/mine")))
    assert (config, path) == ("runs/mine/config.yaml", "runs/mine/checkpoints/last.ckpt")
