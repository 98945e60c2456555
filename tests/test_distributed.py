"""One process, DDP×2 and FSDP2×2, ×4, started through the command line, give the same episodes, metrics and weights;
a run that is killed and resumed gives the same as one that is not."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
CLOCK = ("time/", "rollout/tokens_per_s")
SMALL = [
    *["--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "1"],
    *["--data.tasks_per_iteration", "4", "--data.group_size", "2", "--data.steps_per_iteration", "2"],
    *["--data.play.max_turns", "4", "--data.environment.init_args.validation_tasks", "6"],
    *["--data.micro_batch_tokens", "800", "--model.optimizer.init_args.eps", "1e-4"],
]
# Adam divides by the root of squared gradients: with its tiny default epsilon, a gradient that is 0 but for rounding
# would make a whole step.


def command(folder: Path, name: str, *arguments: str) -> list[str]:
    fit = [sys.executable, "-m", "sdar_pl", "fit", "--config", str(ROOT / "configs" / "quickstart.yaml"), *SMALL]
    return [*fit, "--trainer.default_root_dir", str(folder), "--run", name, *arguments]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
ENVIRONMENT.pop("SDAR_PL_RUN_FOLDER", None)


def fit(folder: Path, name: str, *arguments: str) -> Path:
    done = subprocess.run(
        command(folder, name, *arguments), env=ENVIRONMENT, capture_output=True, text=True, timeout=500, cwd=folder
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return folder / name


def metrics(run: Path) -> list[dict[str, float]]:
    with (run / "metrics.csv").open() as file:
        return [{k: float(v) for k, v in row.items() if v and not k.startswith(CLOCK)} for row in csv.DictReader(file)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return state


def episodes(run: Path) -> set[str]:
    """What was played, whoever played it."""
    played = set()
    for file in run.glob("episodes*.jsonl"):
        for line in map(json.loads, file.read_text().splitlines()):
            turns = [turn["tokens"] for turn in line["turns"]]
            played.add(json.dumps([line["iteration"], line["split"], line["task"], line["index"], turns]))
    return played


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("alone"), "run")


@pytest.mark.parametrize(("strategy", "devices"), [("ddp", 2), ("fsdp2", 2), ("fsdp2", 4)])
def test_any_number_of_ranks_gives_the_same(strategy: str, devices: int, alone: Path, tmp_path: Path) -> None:
    run = fit(tmp_path, "run", "--trainer.strategy", strategy, "--trainer.devices", str(devices))
    assert episodes(run) == episodes(alone)
    for mine, theirs in zip(metrics(run), metrics(alone), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5, rel=1e-5)
    ours, expected = weights(run), weights(alone)
    assert ours.keys() == expected.keys()
    assert all(torch.allclose(ours[name], expected[name], atol=1e-5) for name in expected)


def test_a_divergence_over_the_vocabulary_does_not_care_for_ranks(tmp_path: Path) -> None:
    """Also where a rank has a blank micro-batch."""
    chosen = ["--config", str(ROOT / "configs" / "objectives" / "sdar_js.yaml"), "--trainer.max_epochs", "1"]
    one = fit(tmp_path, "one", *chosen)
    two = fit(tmp_path, "two", *chosen, "--trainer.strategy", "fsdp2", "--trainer.devices", "2")
    assert metrics(one)[-1]["loss/distill"] > 0
    for mine, theirs in zip(metrics(two), metrics(one), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5, rel=1e-5)
    assert all(torch.allclose(tensor, weights(one)[name], atol=1e-5) for name, tensor in weights(two).items())


@pytest.mark.parametrize("delay", [0.0, 1.5])
def test_killed_and_resumed_equals_undisturbed(delay: float, alone: Path, tmp_path: Path) -> None:
    victim = subprocess.Popen(
        command(tmp_path, "run"), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path
    )
    saved = tmp_path / "run" / "checkpoints" / "last.ckpt"
    until = time.monotonic() + 240
    while not saved.exists() and victim.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(delay)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    run = fit(tmp_path, "run", "--ckpt_path", "last")
    assert metrics(run) == metrics(alone)
    assert episodes(run) == episodes(alone)
    assert all(torch.equal(tensor, weights(alone)[name]) for name, tensor in weights(run).items())
