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
from typing import Any

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


def saved(run: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint


def weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = saved(run)["state_dict"]
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
    compare(run, alone)


def compare(run: Path, alone: Path) -> None:
    assert episodes(run) == episodes(alone)
    for mine, theirs in zip(metrics(run), metrics(alone), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5, rel=1e-5)
    compare_checkpoints(run, alone)


def compare_checkpoints(run: Path, alone: Path) -> None:
    for part in ("state_dict", "teacher"):
        ours, expected = saved(run)[part], saved(alone)[part]
        assert ours.keys() == expected.keys()
        assert all(torch.allclose(ours[name], expected[name], atol=1e-5) for name in expected)


@pytest.mark.parametrize("base", [[], ["--model.policy.quantization", "nf4"]], ids=["float32", "nf4"])
def test_a_moving_average_is_sharded_and_saved_whole(base: list[str], tmp_path: Path) -> None:
    """… and read at every step, where each rank has its shard of the weights alone."""
    options = ["--config", str(ROOT / "configs" / "teachers" / "ema.yaml"), "--model.teacher_refresh", "step", *base]
    alone = fit(tmp_path, "alone", *options)
    sharded = ["--trainer.strategy", "fsdp2", "--trainer.devices", "2"]
    run = fit(tmp_path, "run", *options, *sharded)
    assert saved(run)["teacher"].keys() == {name.removeprefix("policy.") for name in weights(run)}
    compare(run, alone)
    fit(tmp_path, "parts", *options, *sharded, "--trainer.max_epochs", "1")
    compare_checkpoints(fit(tmp_path, "parts", *options, *sharded, "--ckpt_path", "last"), run)


def test_what_is_learnt_from_the_whole_batch(tmp_path: Path) -> None:
    """REINFORCE++'s normalisation and the bandit's counts are those of all ranks, with groups dropped and refilled, and
    an average that every rank keeps for itself."""
    options = [
        *["--data.advantage", "sdar_pl.objectives.BatchAdvantage", "--data.max_refills", "2"],
        *["--config", str(ROOT / "configs" / "contexts" / "ucb_skills.yaml")],
        *["--config", str(ROOT / "configs" / "teachers" / "ema.yaml")],
        *["--data.play.max_turns", "8", "--data.group_size", "4", "--trainer.max_epochs", "3"],
    ]
    alone = fit(tmp_path, "alone", *options)
    assert max(row.get("rollout/refills", 0) for row in metrics(alone)) > 1
    assert min(row.get("rollout/refills", 9) for row in metrics(alone)) < 8, "some groups were trained on"
    compare(fit(tmp_path, "run", *options, "--trainer.strategy", "ddp", "--trainer.devices", "2"), alone)


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
