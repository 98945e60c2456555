"""Resuming with another model, method, optimizer, seed or data: refused by name, or adopted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import fit_here, metrics
from safetensors.torch import load_file, save_file

from sdar_pl.cli import main
from sdar_pl.modeling.sources import ASSETS


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One iteration of the tiny policy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["sdar_pl"])
        return fit_here(tmp_path_factory.mktemp("run"), "--trainer.max_epochs", "1")


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """The last checkpoint of the run in a run folder of its own."""
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run" / "checkpoints" / "last.ckpt"


def edited(folder: Path) -> Path:
    """The tiny policy with one value of one tensor changed, as a fine-tuned or merged model is in many."""
    shutil.copytree(ASSETS / "tiny-household", folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "down_proj" in name)
    weights[name][3, 5] += 0.5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def other(words: str, *arguments: str, fast: bool = False) -> Any:
    return pytest.param(list(arguments), words, id=words.partition(":")[0], marks=() if fast else pytest.mark.slow)


OTHERS = [
    other("model.policy.model: 'tiny-household', '", "--model.policy.model", "{edited}", fast=True),
    other("model.policy.lora: {", "--model.policy.lora.r", "4"),
    other("model.objective: SDAR, GRPO", "--model.objective", "sdar_pl.objectives.GRPO"),
    other("data.advantage: GroupAdvantage, Batch", "--data.advantage", "sdar_pl.objectives.advantages.BatchAdvantage"),
    other("model.teacher: Initial, MovingAverage", "--model.teacher", "sdar_pl.teachers.MovingAverage"),
    other("model.optimizer: AdamW, SGD", "--model.optimizer", "torch.optim.SGD", fast=True),
    other("model.scheduler: None, LinearLR", "--model.scheduler", "torch.optim.lr_scheduler.LinearLR"),
    other("seed_everything: 0, 5", "--seed_everything", "5"),
    other("data.environment.init_args.size: tiny, small", "--data.environment.init_args.size", "small", fast=True),
    other("data.environment (train tasks): 100000 tasks, ", "--data.environment.init_args.train_tasks", "50"),
    other("data.train_split: train, validation", "--data.train_split", "validation"),
    other("data.group_size: 4, 2", "--data.group_size", "2"),
    other("data.prompter.history: conversation, windowed", "--data.prompter.history", "windowed"),
    other("data.sampling.max_new_tokens: 8, 9", "--data.sampling.max_new_tokens", "9"),
    other("data.context: SkillContext, SiblingEpisode", "--data.context", "sdar_pl.skills.hindsight.SiblingEpisode"),
]


@pytest.mark.parametrize(("arguments", "words"), OTHERS)
def test_a_checkpoint_of_something_else_is_refused(
    arguments: list[str], words: str, copy: Path, tmp_path: Path, capfd: Any
) -> None:
    model = edited(tmp_path / "edited") if "{edited}" in arguments else None
    before = {path: path.read_bytes() for path in copy.parents[1].glob("*.*") if path.name != ".lock"}
    filled = [word.format(edited=model) for word in arguments]
    fit_here(tmp_path, "--trainer.max_epochs", "2", *filled, "--ckpt_path", str(copy), status=2)
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, errors
    key, values = words.split(": ", 1)
    was, _, now = values.rpartition(", ") if values.count(", ") else (values, "", "")
    assert errors[0].startswith(f"error: {key}: the checkpoint has {was}"), errors
    assert f", the config {now}" in errors[0], errors
    assert "; make them the same, or start without ckpt_path" in errors[0], errors
    assert all(path.read_bytes() == content for path, content in before.items()), "the run is as it was"


@pytest.mark.slow
def test_what_a_user_may_change(copy: Path, tmp_path: Path) -> None:
    """More iterations, another learning rate, other limits, sizes and callbacks; the same weights elsewhere."""
    shutil.copytree(ASSETS / "tiny-household", tmp_path / "a copy")
    more = [
        *["--trainer.max_epochs", "2", "--model.optimizer.init_args.lr", "5e-4", "--data.micro_batch_tokens", "900"],
        *["--data.play.workers", "2", "--data.prompter.max_prompt_tokens", "3000", "--data.panel_tasks", "3"],
        *["--trainer.callbacks+=sdar_pl.callbacks.Throughput", "--model.policy.dtype", "bfloat16"],
    ]
    with pytest.warns(UserWarning, match=r"model\.optimizer\.lr: 0\.001 in the checkpoint, 0\.0005 from here on"):
        run = fit_here(tmp_path, *more, "--ckpt_path", str(copy), model=tmp_path / "a copy")
    assert len(metrics(run)) == 3
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["optimizer_states"][0]["param_groups"][0]["lr"] == 5e-4


def test_an_evaluation_needs_the_model_alone(copy: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["validate", "--config", str(copy.parents[1] / "config.yaml"), "--ckpt_path", str(copy)]
    more = ["--seed_everything", "7", "--data.group_size", "2", "--model.optimizer", "torch.optim.SGD"]
    os.environ.pop("SDAR_PL_RUN_FOLDER", None)
    assert main([*words, *more, "--model.optimizer.lr", "0.1"]) == 0
    os.environ.pop("SDAR_PL_RUN_FOLDER", None)
    assert main([*words, "--model.policy.model", str(edited(tmp_path / "edited"))]) == 2
    assert "error: model.policy.model: the checkpoint has 'tiny-household', the config" in capfd.readouterr().err
