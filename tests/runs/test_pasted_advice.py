"""The commands in messages, pasted into a real shell."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch
from helpers.runs import ENVIRONMENT, command, metrics

NAME = 'it\'s "my" run; ü $HOME'


def stopped(folder: Path, when: str, iteration: int, *more: str) -> str:
    """What a run says on Ctrl-C in an iteration (mishap.py)."""
    mishap = ["--trainer.callbacks+=helpers.mishap.Mishap", f"--trainer.callbacks.when={when}"]
    mishap += [f"--trainer.callbacks.iteration={iteration}", "--trainer.callbacks.how=SIGINT"]
    arguments = command(Path("."), NAME, *mishap, *more)
    done = subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, cwd=folder)
    assert done.returncode == 130, done.stderr
    return done.stderr


def pasted(line: str, folder: Path) -> str:
    done = subprocess.run(["bash", "-c", line], env=ENVIRONMENT, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_pasted_advice_goes_on_and_evaluates(tmp_path: Path) -> None:
    more = ["--data.play.max_turns", "3", "--model.optimizer.init_args.lr", "2e-3"]  # options of the command line
    advice = re.search(r"stopped\. Go on with: (.* -m sdar_pl fit .*)", stopped(tmp_path, "update", 2, *more))
    assert advice
    config = tmp_path / NAME / "config.yaml"
    config.write_text(config.read_text().replace("when: update", "when: never"))  # else it would strike again
    shown = pasted(advice[1], tmp_path)
    state = torch.load(tmp_path / NAME / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["optimizer_states"][0]["param_groups"][0]["lr"] == 2e-3
    assert len(metrics(tmp_path / NAME)) == 3
    evaluate = next(line for line in shown.splitlines() if " -m sdar_pl validate " in line)
    success = f"{100 * metrics(tmp_path / NAME)[-1]['val/success']:.1f}"
    assert success in pasted(evaluate, tmp_path)


@pytest.mark.slow
def test_before_the_first_checkpoint_there_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    said = stopped(tmp_path, "rollout", 1)
    assert "stopped. There is no checkpoint yet: start again with the same command\n" in said
    assert "--ckpt_path" not in said
