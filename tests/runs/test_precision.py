"""``trainer.precision``: each trains, validates and resumes exactly, or is refused in one line."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from helpers import CONFIGS
from helpers.runs import fit, fit_here, metrics, run_here, same, weights

PRECISIONS = {
    "32-true": torch.float32,
    "bf16-mixed": torch.float32,
    "bf16-true": torch.float32,
    "64-true": torch.float64,
}
SHORT = ["--trainer.max_epochs", "1", "--data.environment.init_args.validation_tasks", "2"]


def moved(run: Path) -> bool:
    return any(tensor.abs().max() > 1e-4 for name, tensor in weights(run).items() if "lora_B" in name)


def test_bf16_true_is_the_dtype_of_the_base_weights(tmp_path: Path) -> None:
    """Bit for bit, with a panel: neither tasks, nor log-probs, nor adapters are converted."""
    run = fit_here(tmp_path / "true", "--trainer.precision", "bf16-true", *SHORT)
    same(run, fit_here(tmp_path / "dtype", "--model.policy.dtype", "bfloat16", *SHORT))
    assert {tensor.dtype for tensor in weights(run).values()} == {torch.float32}
    assert moved(run)
    assert metrics(run)[-1]["engine/logprob_mismatch"] > 1e-4, "it was bfloat16"


@pytest.mark.slow
@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="bfloat16 is slow on this CPU")
def test_bf16_learns(tmp_path: Path) -> None:
    """In float32 the same five iterations take the panel from 47 to 72 %."""
    sizes = ["--trainer.max_epochs", "5", "--trainer.check_val_every_n_epoch", "5", "--data.tasks_per_iteration", "4"]
    panel = ["--data.environment.init_args.validation_tasks", "32", "--trainer.default_root_dir", str(tmp_path)]
    quickstart = str(CONFIGS / "quickstart.yaml")
    rows = metrics(run_here("fit", "--config", quickstart, "--trainer.precision", "bf16-mixed", *sizes, *panel))
    assert rows[-1]["val/success"] > rows[0]["val/success"] + 0.1
    assert rows[-1]["loss/distill"] < 0.8 * rows[1]["loss/distill"]
    assert rows[-1]["engine/logprob_mismatch"] < 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer.precision", "16-true"], r"trainer\.precision: 16-true has no loss scale"),
        (
            ["--trainer.precision", "64-true", "--model.policy.quantization", "nf4"],
            r"trainer\.precision: 64-true; a base quantised to nf4 computes in float32 at most",
        ),
    ],
)
def test_refused(options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit_here(tmp_path, *options, status=2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert re.search(message, lines[0])


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_fit_validate_and_resume(precision: str, tmp_path: Path) -> None:
    chosen = ["--trainer.precision", precision, *SHORT, "--trainer.max_epochs", "2"]
    whole = fit_here(tmp_path / "whole", *chosen)
    fit_here(tmp_path / "parts", *chosen, "--trainer.max_epochs", "1")
    same(fit_here(tmp_path / "parts", *chosen, "--ckpt_path", "last"), whole)
    assert moved(whole)
    assert all(math.isfinite(value) for row in metrics(whole) for value in row.values())
    assert {tensor.dtype for tensor in weights(whole).values()} == {PRECISIONS[precision]}
    best = str(whole / "checkpoints" / "last.ckpt")
    run_here("validate", "--config", str(whole / "config.yaml"), "--ckpt_path", best)
    assert (whole / "validate.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_a_quantised_base(precision: str, quantization: str, tmp_path: Path) -> None:
    chosen = ["--trainer.precision", precision, *SHORT, "--model.policy.quantization", quantization]
    run = fit_here(tmp_path, *chosen)
    assert moved(run)
    assert math.isfinite(metrics(run)[-1]["loss/total"])
    assert {tensor.dtype for tensor in weights(run).values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["16-true", "16-mixed"])
def test_float16_evaluates(precision: str, tmp_path: Path) -> None:
    """16-mixed is bf16-mixed on a CPU, as Lightning warns; 16-true computes in float16."""
    options = ["--config", "configs/quickstart.yaml", "--trainer.default_root_dir", str(tmp_path), "--run", "run"]
    run = run_here("validate", *options, *SHORT, "--trainer.precision", precision)
    assert (run / "validate.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "precision"), [("ddp", "bf16-mixed"), ("fsdp2", "bf16-true"), ("fsdp2", "64-true")]
)
def test_two_ranks(strategy: str, precision: str, tmp_path: Path) -> None:
    """In bfloat16 tokens depend on the batch, so that other ranks play other episodes; 32-true: test_distributed.py."""
    ranks = ["--trainer.strategy", strategy, "--trainer.devices", "2"]
    run = fit(tmp_path, "run", "--trainer.precision", precision, *ranks, "--trainer.max_epochs", "1")
    assert moved(run)
    assert all(math.isfinite(value) for row in metrics(run) for value in row.values())
    assert {tensor.dtype for tensor in weights(run).values()} == {PRECISIONS[precision]}
    if (strategy, precision) == ("fsdp2", "bf16-true"):
        fit(tmp_path, "run", "--trainer.precision", precision, *ranks, "--ckpt_path", "last")
        assert [row["step"] for row in metrics(run)] == [0, 1, 2]
