"""Numbers that are not finite, injected into real runs: these go on or end in one line; their weights stay finite."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import CONFIGS, ENVIRONMENT, command, fit, fit_here, metrics, weights

#: two micro-batches or more an optimizer step
SPLIT = ["--data.micro_batch_tokens", "300"]
SKIPPED = r"iteration 1, step 1: loss or gradient is not finite, the step is skipped \(rows: .*anomalies\)"


def poison(what: str, *iterations: int, rank: int = 0) -> list[str]:
    return [
        "--trainer.callbacks+=helpers.poison.Poison",
        f"--trainer.callbacks.what={what}",
        f"--trainer.callbacks.iterations={list(iterations)}",
        f"--trainer.callbacks.only={rank}",
    ]


def infinite(rank: int = 0) -> list[str]:
    return ["--model.objective", "helpers.poison.InfiniteLoss", "--model.objective.only", str(rank)]


def checkpoint(run: Path, name: str = "last.ckpt") -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run / "checkpoints" / name, weights_only=True)
    return content


def steps_made(run: Path) -> set[float]:
    """The step counts of Adam's moments."""
    (state,) = checkpoint(run)["optimizer_states"]
    return {float(values["step"]) for values in state["state"].values()}


def all_finite(tensors: dict[str, torch.Tensor]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def anomaly(run: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "anomalies" / name).read_text())
    return content


def one_line(capfd: pytest.CaptureFixture[str]) -> str:
    """The only error line on stderr."""
    said = capfd.readouterr().err
    (line,) = re.findall(r"^error: .*$", said, re.MULTILINE)
    assert "Traceback" not in said
    return str(line)


# ---------------------------------------------------------------------- skipped steps


@pytest.mark.parametrize("bad", [infinite(), pytest.param(poison("gradient", 1), marks=pytest.mark.slow)])
def test_a_step_that_is_not_finite_is_skipped_and_the_run_goes_on(bad: list[str], tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=SKIPPED):
        run = fit_here(tmp_path, *SPLIT, *bad)
    assert [row.get("policy/skipped_steps") for row in metrics(run)] == [None, 1, 0]
    assert all(row["loss/total"] == row["loss/total"] for row in metrics(run)[1:]), "no NaN in the means"
    assert steps_made(run) == {1}
    assert all_finite(weights(run))
    kept = anomaly(run, "iteration-0001-step-1.json")
    assert (kept["iteration"], kept["step"]) == (1, 1)
    by_loss = "helpers.poison.InfiniteLoss" in bad
    assert ("inf" in kept["losses"], len(kept["gradients"])) == (by_loss, 0 if by_loss else 1)
    assert kept["rows_of_the_step"] >= len(kept["rows"]) > 0
    row = kept["rows"][0]
    for name in ("advantages", "engine_logprobs", "student_logprobs", "teacher_logprobs"):
        assert len(row[name]) == len(row["positions"]) > 0
    assert len(row["tokens"]) == row["tokens_of_the_row"]


@pytest.mark.slow
def test_skipped_steps_move_nothing_and_end_the_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Weights, moments, schedule and the teacher's average stay as they were; the checkpoint is good to go on from."""
    options = [
        *["--config", str(CONFIGS / "teachers" / "ema.yaml"), "--trainer.max_epochs", "3"],
        *["--model.scheduler", "torch.optim.lr_scheduler.ExponentialLR", "--model.scheduler.gamma", "0.5"],
        *["--trainer.limit_val_batches", "0", "--trainer.num_sanity_val_steps", "0"],
    ]
    ended = [*options, "--model.max_skipped_steps", "2", *poison("gradient", 1, 2)]
    run = fit_here(tmp_path, *ended, status=2)
    line = one_line(capfd)
    last = run / "checkpoints" / "last.ckpt"
    assert line.startswith(
        "error: model.max_skipped_steps: 2 optimizer steps in a row were skipped, the last in iterat"
    )
    assert f"in iteration 2, as loss or gradient is not finite (rows: {run / 'anomalies'})" in line
    assert f"--ckpt_path {last}" in line
    content = checkpoint(run)
    assert content["epoch"] == 1
    for tensors in (content["state_dict"], content["teacher"]):
        assert all(not tensor.any() for name, tensor in tensors.items() if "lora_B" in name), "as they were at first"
    assert content["optimizer_states"][0]["state"] == {}
    assert content["lr_schedulers"][0]["last_epoch"] == 0
    assert len(list((run / "anomalies").iterdir())) == 2

    healthy = fit_here(tmp_path, *options, "--ckpt_path", str(last))
    assert healthy == run
    assert steps_made(run) == {2}
    assert checkpoint(run)["lr_schedulers"][0]["last_epoch"] == 2


@pytest.mark.slow
def test_steps_that_are_made_between_begin_the_count_anew(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=SKIPPED):
        run = fit_here(
            tmp_path, "--trainer.max_epochs", "3", "--model.max_skipped_steps", "2", *poison("gradient", 1, 3)
        )
    assert [row.get("policy/skipped_steps") for row in metrics(run)] == [None, 1, 0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_one_bad_rank_makes_all_skip(strategy: str, tmp_path: Path) -> None:
    """The loss of one micro-batch of rank 1, then one element of its gradient (with FSDP2: of its shard)."""
    ranks = ["--trainer.strategy", strategy, "--trainer.devices", "2", "--trainer.limit_val_batches", "0"]
    run = fit(tmp_path, "run", *ranks, *SPLIT, *infinite(rank=1), *poison("gradient", 2, rank=1))
    assert [row["policy/skipped_steps"] for row in metrics(run)] == [1, 1]
    assert steps_made(run) == {2}, "of four steps, the first of each iteration was skipped by both"
    assert all_finite(weights(run))
    assert sorted(path.name for path in (run / "anomalies").iterdir()) == [
        *("iteration-0001-step-1.json", "iteration-0001-step-1.rank1.json"),
        *("iteration-0002-step-1.json", "iteration-0002-step-1.rank1.json"),
    ]
    assert "inf" in anomaly(run, "iteration-0001-step-1.rank1.json")["losses"]
    assert "inf" not in anomaly(run, "iteration-0001-step-1.json")["losses"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    [[], ["--model.optimizer.fused", "true", "--trainer.gradient_clip_val", "null"]],
    ids=["plain", "fused"],
)
def test_a_grad_scaler_finds_its_scale(optimizer: list[str], tmp_path: Path) -> None:
    """fp16: the steps by which the scale is found are counted and end no run."""
    plugin = {
        "class_path": "lightning.pytorch.plugins.MixedPrecision",
        "init_args": {
            **{"precision": "16-mixed", "device": "cpu"},
            "scaler": {"class_path": "torch.amp.GradScaler", "init_args": {"device": "cpu", "init_scale": 2.0**28}},
        },
    }
    steps = ["--data.steps_per_iteration", "2", "--trainer.max_epochs", "8", "--trainer.limit_val_batches", "0"]
    run = fit_here(tmp_path, *steps, "--model.max_skipped_steps", "1", "--trainer.plugins+", json.dumps(plugin), *SPLIT)
    skipped = sum(row["policy/skipped_steps"] for row in metrics(run))
    assert 2 < skipped < 16
    assert steps_made(run) == {16 - skipped}
    assert not (run / "anomalies").exists()


# ---------------------------------------------------------------------- weights


def test_an_absurd_learning_rate_ends_the_run_and_leaves_good_files(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = fit_here(tmp_path, "--model.optimizer.lr", "1e30", "--trainer.limit_val_batches", "0", status=2)
    line = one_line(capfd)
    assert line.startswith("error: model.optimizer: step 1 of iteration 1 made weights that are not finite")
    assert "lower the learning rate" in line
    assert f"--ckpt_path {run / 'checkpoints' / 'last.ckpt'}" in line
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    assert all_finite(weights(run))
    assert not (run / "adapter").exists()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_an_absurd_learning_rate_on_two_ranks(strategy: str, tmp_path: Path) -> None:
    options = ["--trainer.strategy", strategy, "--trainer.devices", "2", "--model.optimizer.lr", "1e30"]
    done = subprocess.run(
        command(tmp_path, "run", *options, "--trainer.limit_val_batches", "0"),
        **{"env": ENVIRONMENT, "cwd": tmp_path, "capture_output": True, "text": True, "timeout": 300},
    )
    (line,) = re.findall(r"^error: .*$", done.stderr, re.MULTILINE)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "step 1 of iteration 1 made weights that are not finite" in line
    assert all_finite(weights(tmp_path / "run"))


@pytest.mark.slow
def test_a_weight_that_is_not_finite_is_never_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """NaN comes into a weight after the step's check, as by a bit that flips."""
    run = fit_here(tmp_path, *poison("weight", 2), "--trainer.limit_val_batches", "0", status=2)
    line = one_line(capfd)
    assert "iteration-0002.ckpt is not written, as its weights are not finite (policy." in line
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["iteration-0001.ckpt", "last.ckpt"]
    assert all_finite(weights(run))
    from safetensors.torch import load_file

    assert all_finite(load_file(run / "adapter" / "adapter_model.safetensors"))
