"""A warm-up learns from demonstrations, goes on bit for bit, and what it makes is where ``fit`` starts."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.runs import ENVIRONMENT, fit_here, metrics, same, weights
from helpers.warmups import ON_FILE, arguments, chat, chat_file, warmup, warmup_here

from sdar_pl.cli import main

EVERY = ["--trainer.check_val_every_n_epoch", "1"]
MORE = ["--trainer.max_epochs", "4", "--data.tasks_per_iteration", "48", "--data.steps_per_iteration", "8"]


@pytest.mark.slow
def test_it_learns_from_the_expert_and_fit_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data.environment.init_args.validation_tasks", "36", "--data.play.max_turns", "12"]
    run = warmup_here(tmp_path, "run", *MORE, *options, "--data.micro_batch_tokens", "16384")
    rows = metrics(run)
    assert rows[-1]["loss/total"] < 0.6 * rows[1]["loss/total"]
    # Of responses alone: the mean over steps, and over tokens.
    assert rows[-1]["loss/total"] == pytest.approx(rows[-1]["loss/response"], rel=0.1)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["interval"][0] > 0, "more success on the panel"
    lines = [json.loads(line) for line in (run / "episodes.jsonl").read_text().splitlines()]
    assert {line["split"] for line in lines} == {"train", "validation"}
    assert (run / "report.html").exists()
    said = capsys.readouterr().out
    assert "iteration 4/4 · loss 0." in said
    assert f" -m sdar_pl export --ckpt_path {run / 'checkpoints' / 'best.ckpt'} --out" in said

    model = tmp_path / "model"
    best = str(run / "checkpoints" / "best.ckpt")
    assert main(["export", "--ckpt_path", best, "--out", str(model), "--merge"]) == 0
    fit = fit_here(tmp_path / "fit", model=model)
    assert metrics(fit)[0]["val/success"] >= 0, "it plays"
    fit_here(tmp_path / "again", "--ckpt_path", best, "--model.policy.lora.r", "4", "--model.policy.lora.alpha", "8",
             status=2)  # fmt: skip
    said = capsys.readouterr().err
    assert "ckpt_path: it is a checkpoint of warmup, with which only warmup goes on" in said


def test_a_resumed_warm_up_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    straight = warmup_here(tmp_path, "straight", *EVERY)
    warmup_here(tmp_path, "parts", *EVERY, "--trainer.max_epochs", "1")
    same(warmup_here(tmp_path, "parts", *EVERY, "--ckpt_path", "last"), straight)


def test_a_file_alone_is_enough(tmp_path: Path) -> None:
    """No environment, no panel; a line is learnt by heart."""
    lines = [chat("what do you see?", "a mug on shelf 1", "take it", "<action>take mug 1 from shelf 1</action>")]
    path = chat_file(tmp_path / "chat.jsonl", lines)
    options = [*ON_FILE, "--data.demonstrations.init_args.path", str(path), "--model.policy.lora", "null"]
    run = warmup_here(tmp_path, "run", *options, "--data.steps_per_iteration", "8", "--trainer.max_epochs", "3")
    losses = [row["loss/total"] for row in metrics(run)]
    assert losses[-1] < 0.1 < 1 < losses[0]
    assert "val/success" not in metrics(run)[-1]
    assert main(["export", "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--out", str(tmp_path / "model"),
                 "--merge"]) == 0  # fmt: skip
    path.write_text(path.read_text().replace("mug", "cup"))
    warmup_here(tmp_path, "run", *options, "--data.steps_per_iteration", "8", "--ckpt_path", "last", status=2)


@pytest.mark.slow
def test_the_loss_is_the_mean_over_weights_however_it_is_split(tmp_path: Path) -> None:
    """−Σ w log π / Σ w of the step, in one micro-batch or in many."""
    options = ["--trainer.max_epochs", "1", "--data.prompt_weight", "0.3"]
    runs = [
        warmup_here(tmp_path, f"budget-{tokens}", *options, "--data.micro_batch_tokens", tokens)
        for tokens in ("500", "100000")
    ]
    parts, whole = (metrics(run)[-1] for run in runs)
    assert parts["loss/total"] == pytest.approx(whole["loss/total"], rel=1e-5)
    assert whole["loss/total"] != whole["loss/response"]
    assert all(torch.allclose(weight, weights(runs[1])[name], atol=1e-5) for name, weight in weights(runs[0]).items())
    assert math.isfinite(whole["policy/entropy"])


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path: Path) -> None:
    alone = warmup(tmp_path, "alone", "--trainer.callbacks+=helpers.mishap.Mishap", "--trainer.callbacks.when=never")
    strike = ["--trainer.callbacks+=helpers.mishap.Mishap", "--trainer.callbacks.when=update"]
    command = [sys.executable, "-m", "sdar_pl", *arguments(tmp_path, "run", *strike, "--trainer.callbacks.how=SIGINT")]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    advice = re.search(r"stopped\. Go on with: (\S+ -m sdar_pl warmup --config (\S+) --ckpt_path \S+)", done.stderr)
    assert advice, done.stderr
    config = Path(advice[2])
    config.write_text(config.read_text().replace("when: update", "when: never"))  # else it would strike again
    subprocess.run(["bash", "-c", advice[1]], env=ENVIRONMENT, cwd=tmp_path, check=True, capture_output=True)
    same(tmp_path / "run", alone)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "options"), [
    ("ddp", []), ("fsdp2", ["--model.policy.quantization", "nf4"]),
])  # fmt: skip
def test_two_ranks_give_the_same(strategy: str, options: list[str], tmp_path: Path) -> None:
    options = ["--data.prompt_weight", "0.1", *EVERY, *options]
    alone = warmup(tmp_path, "alone", *options)
    ranks = ["--trainer.strategy", strategy, "--trainer.devices", "2"]
    warmup(tmp_path, "run", *options, *ranks, "--trainer.max_epochs", "1")
    run = warmup(tmp_path, "run", *options, *ranks, "--ckpt_path", "last")
    for mine, theirs in zip(metrics(run), metrics(alone), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5, rel=1e-4)
    ours, expected = weights(run), weights(alone)
    assert ours.keys() == expected.keys()
    assert all(torch.allclose(ours[name], expected[name], atol=1e-4) for name in expected)
