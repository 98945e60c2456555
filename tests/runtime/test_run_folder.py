"""The run folder: a free name for a new run, the old folder for a resumed one."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
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
    """The folder of a run, which has written something and ended."""
    with started(root, resumed, name, config) as folder:
        (folder / "metrics.csv").write_text("")
    return folder


@contextlib.contextmanager
def started(
    root: Path,
    resumed: str | None = None,
    name: str | None = "mine",
    config: list[str] | None = None,
    training: bool = True,
) -> Iterator[Path]:
    """The folder of a run that is under way in the block."""
    os.environ[RUN_FOLDER] = ""
    settings = Namespace(trainer=Namespace(default_root_dir=str(root)), run=name, config=config)
    with contextlib.ExitStack() as until_end:
        folder = run_folder(settings, resumed, until_end, training)
        assert os.environ[RUN_FOLDER] == str(folder), "for the other ranks"
        yield folder


def checkpoint(folder: Path, seconds: int) -> Path:
    path = folder / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    path.write_text("")
    os.utime(path, (seconds, seconds))
    return path


def test_new_runs_do_not_overwrite_each_other(tmp_path: Path) -> None:
    for expected in ("mine", "mine-2", "mine-3"):
        assert choose(tmp_path) == tmp_path / expected


def test_a_refused_run_leaves_nothing(tmp_path: Path) -> None:
    root = tmp_path / "runs" / "deeper"
    with pytest.raises(UserError, match="refused"), started(root) as folder:  # noqa: PT012
        assert folder == root / "mine"
        raise UserError("refused")
    assert not (tmp_path / "runs").exists()
    (root / "mine").mkdir(parents=True)
    assert choose(root) == root / "mine", "an empty folder is used"


def test_a_link_is_no_free_name(tmp_path: Path) -> None:
    for target in ("nowhere", "empty"):
        (tmp_path / "runs").mkdir(exist_ok=True)
        (tmp_path / "runs" / "mine").unlink(missing_ok=True)
        (tmp_path / "runs" / "mine").symlink_to(tmp_path / target)
        with started(tmp_path / "runs") as folder:
            assert folder == tmp_path / "runs" / "mine-2"
        (tmp_path / "empty").mkdir(exist_ok=True)
    assert not list((tmp_path / "empty").iterdir())


def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    """Real processes that wait for one moment; each keeps its folder until the last has one."""
    fork = multiprocessing.get_context("fork")
    count = 6
    moment, found = fork.Barrier(count), fork.Queue()

    def run() -> None:
        moment.wait()
        with started(tmp_path / "runs") as folder:
            found.put(folder.name)
            moment.wait()

    processes = [fork.Process(target=run) for _ in range(count)]
    for process in processes:
        process.start()
    names = {found.get(timeout=30) for _ in processes}
    for process in processes:
        process.join(30)
    assert names == {"mine", *(f"mine-{number}" for number in range(2, count + 1))}


def test_the_config_names_a_run_without_a_name(tmp_path: Path) -> None:
    assert choose(tmp_path, name=None, config=["a/sdar.yaml", "b/grpo.yaml"]).name == "sdar"
    assert choose(tmp_path, name=None).name == "run"


def test_last_is_of_the_run_with_the_newest_checkpoint(tmp_path: Path) -> None:
    others = ("other", 400), ("mine-longer", 500), ("mine-2b", 600)
    for name, seconds in ("mine", 200), ("mine-2", 300), ("mine-3", 100), *others:
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


def test_the_command_that_resumes_a_run(tmp_path: Path) -> None:
    run = tmp_path / "my run"
    run.mkdir()
    nothing = "There is no checkpoint yet: start again with the same command"
    assert resume_command(run) == nothing
    (run / "config.yaml").write_text("")
    assert resume_command(run) == nothing
    last = checkpoint(run, 1)
    words = shlex.split(resume_command(run).removeprefix("Go on with: "))
    assert words[1:] == ["-m", "sdar_pl", "fit", "--config", str(run / "config.yaml"), "--ckpt_path", str(last)]


# ---------------------------------------------------------------------- the lock


def test_a_folder_in_use_is_refused_and_free_after_a_kill(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "mine", 1)
    program = (
        "import sys, time; from pathlib import Path; from sdar_pl.runtime.run_lock import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "mine")], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    for resumed in ("last", str(path)):
        with pytest.raises(UserError, match=f"^ckpt_path: {tmp_path / 'mine'} is in use by process {other.pid} on "):
            choose(tmp_path, resumed)
    with started(tmp_path, "last", training=False) as folder:
        assert folder == tmp_path / "mine", "an evaluation may look at a run under way"
    assert choose(tmp_path) == tmp_path / "mine-2", "a new run goes elsewhere"
    other.kill()
    other.communicate()
    assert choose(tmp_path, str(path)) == tmp_path / "mine"


def test_a_file_system_without_locks_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.warns(UserWarning, match=r"mine: its file system has no locks \(No locks available\)"):
        assert choose(tmp_path) == tmp_path / "mine"


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "mine", 1)
    (tmp_path / "precious").write_text("text")
    (tmp_path / "mine" / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match=r"default_root_dir: cannot write to .*mine"):
        choose(tmp_path, str(path))
    assert (tmp_path / "precious").read_text() == "text"


def test_ranks_of_another_launcher_find_the_folder_of_rank_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(tmp_path)  # an earlier run
    monkeypatch.setenv("MASTER_PORT", "29500")
    with started(tmp_path) as folder:
        assert folder == tmp_path / "mine-2"
        monkeypatch.setenv("RANK", "1")
        with started(tmp_path) as same_folder:
            assert same_folder == folder
