"""Runs through the command line, in this process or in one of their own, and what they leave."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from helpers import CONFIGS, ROOT
from sdar_pl.cli import main
from sdar_pl.runtime.processes import RUN_FOLDER

CLOCK = ("time/", "memory/", "rollout/tokens_per_s")
SMALL = [
    *["--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "1"],
    *["--data.tasks_per_iteration", "4", "--data.group_size", "2", "--data.steps_per_iteration", "2"],
    *["--data.play.max_turns", "4", "--data.environment.init_args.validation_tasks", "6"],
    *["--data.micro_batch_tokens", "800", "--model.optimizer.init_args.eps", "1e-4"],
]
# Adam divides by the root of squared gradients: with its tiny default epsilon, a gradient that is 0 but for rounding
# would make a whole step.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("SDAR_PL_")},
    **{"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]),
}


#: a smaller one still, for runs in this process
TINY = [
    *["--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "1"],
    *["--data.tasks_per_iteration", "2", "--data.group_size", "4", "--data.play.max_turns", "3"],
    *["--data.environment.init_args.validation_tasks", "6", "--data.sampling.max_new_tokens", "8"],
    *["--data.evaluation.max_new_tokens", "8"],
]


def run_here(*arguments: str, status: int = 0) -> Path:
    """A command in this process, writing below runs/ of the working folder or where it says → its run folder."""
    os.environ.pop(RUN_FOLDER, None)
    assert main(arguments) == status
    return Path(os.environ.pop(RUN_FOLDER))


def fit_here(folder: Path, *arguments: str, model: str | Path = "tiny-household", status: int = 0) -> Path:
    """A small quickstart run in this process → its folder."""
    base = ["fit", "--config", str(CONFIGS / "quickstart.yaml"), "--model.policy.model", str(model), *TINY]
    return run_here(*base, "--trainer.default_root_dir", str(folder), "--run", "run", *arguments, status=status)


def command(folder: Path, name: str, *arguments: str, subcommand: str = "fit") -> list[str]:
    fit = [sys.executable, "-m", "sdar_pl", subcommand, "--config", str(ROOT / "configs" / "quickstart.yaml"), *SMALL]
    return [*fit, "--trainer.default_root_dir", str(folder), "--run", name, *arguments]


def fit(folder: Path, name: str, *arguments: str, status: int = 0, subcommand: str = "fit") -> Path:
    """A run to its end → its folder."""
    done = subprocess.run(
        command(folder, name, *arguments, subcommand=subcommand),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=500,
        cwd=folder,
    )
    assert done.returncode == status, done.stdout[-2000:] + done.stderr[-4000:]
    return folder / name


def struck(folder: Path, when: str, how: str = "SIGKILL", rank: int = 0, more: Sequence[str] = ()) -> tuple[int, str]:
    """A run that something happens to in its second iteration (mishap.py) → (exit status, what was printed)."""
    mishap = [
        "--trainer.callbacks+=helpers.mishap.Mishap",
        f"--trainer.callbacks.when={when}",
        f"--trainer.callbacks.how={how}",
    ]
    arguments = command(folder, "run", *more, *mishap, f"--trainer.callbacks.rank={rank}")
    said = folder / "said.txt"
    with said.open("w") as file:
        done = subprocess.run(arguments, env=ENVIRONMENT, stdout=file, stderr=file, timeout=300, cwd=folder)
    return done.returncode, said.read_text()


def metrics(run: Path) -> list[dict[str, float]]:
    """Rows of metrics.csv without what clock and memory show."""
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


def same(run: Path, other: Path, but: str = "") -> None:
    """Bit for bit, but for one column of metrics.csv that only one of them has."""
    ours, theirs = ([{k: v for k, v in row.items() if k != but} for row in metrics(one)] for one in (run, other))
    assert ours == theirs
    assert episodes(run) == episodes(other)
    trained, expected = weights(run), weights(other)
    assert trained.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in trained.items())
