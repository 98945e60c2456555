"""One optimizer step: however its rows are split, the loss and the update are the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.runs import fit_here, metrics, weights

#: SGD, whose step is proportional to the gradient (Adam's is not), and no clipping, which would hide a factor.
PLAIN = [
    *["--model.optimizer", "torch.optim.SGD", "--model.optimizer.init_args.lr", "0.5"],
    *["--trainer.gradient_clip_val", "null", "--trainer.max_epochs", "1", "--trainer.limit_val_batches", "0"],
]


@pytest.mark.parametrize("history", ["conversation", pytest.param("windowed", marks=pytest.mark.slow)])
def test_micro_batches_change_nothing(history: str, tmp_path: Path) -> None:
    options = [*PLAIN, "--data.prompter.history", history]
    whole = fit_here(tmp_path / "whole", *options, "--data.micro_batch_tokens", "100000")
    split = fit_here(tmp_path / "split", *options, "--data.micro_batch_tokens", "300")
    (row,), (other,) = metrics(whole), metrics(split)
    assert row.keys() == other.keys()
    for name in row:
        assert other[name] == pytest.approx(row[name], rel=1e-4, abs=1e-6), name
    ours, theirs = weights(whole), weights(split)
    moved = [name for name, tensor in ours.items() if "lora_B" in name and tensor.abs().max() > 1e-4]
    assert moved, "the update is large enough to compare"
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-3, atol=2e-6)
