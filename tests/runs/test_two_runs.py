"""Two runs of one name: at the same moment, and one after the other."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from helpers.runs import ENVIRONMENT, command, fit_here, metrics, run_here

from sdar_pl.runtime.run_lock import locked


@pytest.mark.slow
def test_two_runs_at_once_write_to_two_folders_and_none_into_the_other(tmp_path: Path) -> None:
    endless = command(tmp_path, "run", "--trainer.max_epochs", "100000")
    quiet = {"env": ENVIRONMENT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    runs = [subprocess.Popen(endless, **quiet) for _ in range(2)]  # type: ignore[call-overload]
    lasts = [tmp_path / name / "checkpoints" / "last.ckpt" for name in ("run", "run-2")]
    try:
        while not all(path.exists() for path in lasts) and all(run.poll() is None for run in runs):
            time.sleep(0.1)
        third = subprocess.run(
            command(tmp_path, "run", "--ckpt_path", str(lasts[0])), env=ENVIRONMENT, capture_output=True, text=True
        )
        assert third.returncode == 2, third.stderr
        said = re.fullmatch(r"error: ckpt_path: (\S+) is in use by process (\d+) on .*\n", third.stderr)
        assert said, third.stderr
        assert said[1] == str(tmp_path / "run")
        assert int(said[2]) in {run.pid for run in runs}
    finally:
        for run in runs:
            run.send_signal(signal.SIGKILL)
            run.wait()
    assert {path.name for path in tmp_path.iterdir()} == {"run", "run-2"}
    for name in ("run", "run-2"):
        with locked(tmp_path / name):
            pass  # the kills have freed the folders


@pytest.mark.slow
def test_ranks_of_torchrun_share_a_folder(tmp_path: Path) -> None:
    (tmp_path / "quickstart").mkdir()
    (tmp_path / "quickstart" / "earlier").write_text("")
    ranks = ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.max_epochs", "1"]
    python, *words = command(tmp_path, "", *ranks)
    words = [word for word in words if word not in ("--run", "")]  # torchrun takes --run for its own
    torchrun = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    done = subprocess.run(torchrun, env=ENVIRONMENT, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"quickstart", "quickstart-2"}
    logs = {path.name for path in (tmp_path / "quickstart-2").glob("*.jsonl")}
    assert logs == {"episodes.jsonl", "episodes.rank1.jsonl"}


def test_last_is_of_this_run_and_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = fit_here(tmp_path, "--trainer.max_epochs", "1")
    other = tmp_path / "run-longer"  # another run, whose name begins the same and whose checkpoint is newer
    shutil.copytree(run, other)
    for path in other.glob("checkpoints/*"):
        os.utime(path, (2_000_000_000, 2_000_000_000))
    capfd.readouterr()
    assert fit_here(tmp_path, "--ckpt_path", "last") == run
    assert f"ckpt_path: last is {run / 'checkpoints' / 'last.ckpt'}\n" in capfd.readouterr().out
    assert len(metrics(run)) == 3
    # The run's own configuration names the run, and no checkpoint: without one it starts a new run.
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["run"] == "run"
    assert "ckpt_path" not in config
    assert run_here("validate", "--config", str(run / "config.yaml"), "--ckpt_path", "last") == run
