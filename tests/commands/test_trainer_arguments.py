"""Trainer arguments that are refused: before anything is written, and what Lightning says with the argument's key."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
from helpers import CONFIGS

from sdar_pl.cli import main
from sdar_pl.commands.trainer_arguments import refusal_of_lightning


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["accumulate_grad_batches", "4"], "trainer.accumulate_grad_batches: 4; an iteration sets it to"),
        (["limit_train_batches", "1"], "trainer.limit_train_batches: 1; an iteration is trained on whole"),
        (["callbacks+", "lightning.pytorch.callbacks.LearningRateFinder"], "trainer.callbacks: LearningRateFinder; "),
        (["strategy", "ddp_spawn"], "trainer.strategy: ddp_spawn; ranks are started by the command line; use ddp"),
    ],
)
def test_refused_before_anything_is_written(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    option = f"--trainer.{options[0]}={options[1]}"
    config = ["--config", str(CONFIGS / "quickstart.yaml"), "--trainer.default_root_dir", str(tmp_path / "runs")]
    assert main(["fit", *config, option]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {message}")
    assert not list(tmp_path.iterdir())


def test_what_lightning_refuses_has_the_key() -> None:
    with pytest.raises(ValueError, match="num_nodes") as caught:
        L.Trainer(num_nodes=0, accelerator="cpu", logger=False)
    assert refusal_of_lightning(caught.value) == (
        "trainer.num_nodes: `num_nodes` must be a positive integer, but got 0."
    )


def test_an_error_of_ours_is_none_of_lightning_s() -> None:
    with pytest.raises(ValueError, match="our own") as caught:
        raise ValueError("our own devices")
    assert refusal_of_lightning(caught.value) is None
