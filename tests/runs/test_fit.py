"""The whole job through the command line: rollouts, scores, updates, logs, checkpoints – on real architectures."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import ROOT
from helpers.runs import fit_here, metrics, weights

from sdar_pl.cli import main
from sdar_pl.datamodule import RolloutDataModule

#: names that are fixed for good
NAMES = (
    *("val/success", "val/reward", "train/success", "train/reward", "train/valid_action", "episode/turns"),
    *("gate/mean", "gate/active", "gap/mean", "gap/negative_fraction"),
    *("loss/total", "loss/policy", "loss/distill", "loss/reference_kl"),
    *("policy/entropy", "policy/clip_fraction", "policy/approx_kl", "engine/logprob_mismatch"),
    *("time/rollout_s", "time/score_s", "time/update_s", "rollout/tokens_per_s"),
)


@pytest.mark.parametrize("model", ["tiny-household", "qwen2", "qwen3"])
def test_fit_logs_everything_and_trains(model: str, models: dict[str, Path], tmp_path: Path) -> None:
    run = fit_here(tmp_path, model=models.get(model, model))
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0", "1", "2"]
    assert rows[0]["val/success"]
    assert not rows[0]["train/success"], "the first row is the untrained policy's panel"
    assert all(rows[-1][name] for name in NAMES)
    assert all(math.isfinite(float(value)) for row in rows for value in row.values() if value)
    assert float(rows[1]["engine/logprob_mismatch"]) < 1e-4
    assert any(name.startswith("val/success/") for name in rows[0])
    for name in ("config.yaml", "episodes.jsonl", "summary.json", "checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        assert (run / name).exists(), name
    assert list(run.glob("events.out.tfevents*"))
    lines = [json.loads(line) for line in (run / "episodes.jsonl").read_text().splitlines()]
    assert sum(line["split"] == "train" for line in lines) == 2 * 2 * 4
    assert sum(line["split"] == "validation" for line in lines) == 3 * 6
    trained = weights(run)
    assert trained
    assert all("lora_" in name for name in trained), "a checkpoint holds the adapters alone"
    assert any(tensor.abs().sum() > 0 for name, tensor in trained.items() if "lora_B" in name)


@pytest.mark.slow
def test_windowed_history_with_several_steps_and_small_micro_batches(tmp_path: Path) -> None:
    run = fit_here(
        tmp_path,
        *["--data.prompter.history", "windowed", "--data.steps_per_iteration", "2"],
        *["--data.micro_batch_tokens", "600", "--data.prompter.max_teacher_tokens", "2000"],
    )
    last = metrics(run)[-1]
    assert last["policy/approx_kl"] != 0, "the second step of an iteration is off-policy"
    assert last["gate/mean"] > 0


@pytest.mark.slow
def test_full_fine_tuning_without_adapters(tmp_path: Path) -> None:
    run = fit_here(
        tmp_path,
        *["--model.policy.lora", "null", "--model.objective.init_args.reference_coefficient", "0"],
        *["--model.optimizer.init_args.lr", "1e-5", "--model.teacher", "sdar_pl.teachers.Current"],
    )
    assert any("embed_tokens" in name for name in weights(run))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model.objective.init_args.coefficient", "0"],
        pytest.param(
            [
                *["--config", str(ROOT / "configs" / "objectives" / "sdar_reverse_kl.yaml")],
                *["--model.objective.init_args.distillation.init_args.coefficient", "0"],
            ],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["sdar", "sdar_reverse_kl"],
)
def test_without_weight_sdar_is_grpo_bit_by_bit(arguments: list[str], tmp_path: Path) -> None:
    sdar = fit_here(tmp_path / "sdar", *arguments)
    grpo = fit_here(tmp_path / "grpo", "--config", str(ROOT / "configs" / "objectives" / "grpo.yaml"))
    for name, tensor in weights(grpo).items():
        assert torch.equal(tensor, weights(sdar)[name]), name
    shared = [name for name in metrics(grpo)[-1] if not name.startswith(("gap", "gate"))]
    assert [{n: row[n] for n in shared if n in row} for row in metrics(sdar)] == [
        {n: row[n] for n in shared if n in row} for row in metrics(grpo)
    ]


def test_a_divergence_over_the_vocabulary_trains(tmp_path: Path) -> None:
    """Two optimizer steps: in the first, student and old teacher differ in what they read alone."""
    config = ["--config", str(ROOT / "configs" / "objectives" / "sdar_reverse_kl.yaml")]
    short = ["--trainer.max_epochs", "1", "--data.steps_per_iteration", "2", "--data.micro_batch_tokens", "800"]
    run = fit_here(tmp_path, *config, *short)
    row = metrics(run)[-1]
    assert 0 < row["loss/distill"] < 1
    assert math.isfinite(row["loss/total"])
    assert 0 < row["gate/mean"] < 1
    assert any(tensor.abs().sum() > 0 for name, tensor in weights(run).items() if "lora_B" in name)


@pytest.mark.slow
def test_one_seed_gives_one_result(tmp_path: Path) -> None:
    first, again = fit_here(tmp_path / "a"), fit_here(tmp_path / "b")
    other = fit_here(tmp_path / "c", "--seed_everything", "5")
    assert metrics(first) == metrics(again)
    assert all(torch.equal(tensor, weights(again)[name]) for name, tensor in weights(first).items())
    assert metrics(first) != metrics(other)


@pytest.mark.slow
def test_resumed_run_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = fit_here(tmp_path / "whole", "--trainer.max_epochs", "3")
    fit_here(tmp_path / "parts", "--trainer.max_epochs", "1")
    resumed = fit_here(tmp_path / "parts", "--trainer.max_epochs", "3", "--ckpt_path", "last")
    assert metrics(resumed) == metrics(whole)
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(resumed).items())


def test_a_finished_run_that_is_resumed_plays_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fit_here(tmp_path, "--trainer.max_epochs", "1")
    before = {name: (run / name).read_bytes() for name in ("metrics.csv", "episodes.jsonl")}
    monkeypatch.setattr(RolloutDataModule, "collect", None)
    fit_here(tmp_path, "--trainer.max_epochs", "1", "--ckpt_path", "last")
    assert {name: (run / name).read_bytes() for name in before} == before


def test_validate_leaves_the_run_alone_and_finds_its_policy(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = fit_here(tmp_path)
    before = {name: (run / name).read_bytes() for name in ("metrics.csv", "config.yaml", "episodes.jsonl")}
    capfd.readouterr()
    best = str(run / "checkpoints" / "last.ckpt")
    assert main(["validate", "--config", str(run / "config.yaml"), "--ckpt_path", best]) == 0
    said = capfd.readouterr().out
    shown = f"{100 * metrics(run)[-1]['val/success']:.1f}"
    assert shown in said
    assert {name: (run / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "configs" / "objectives").glob("*.yaml")))
@pytest.mark.slow
def test_every_objective_trains(name: str, tmp_path: Path) -> None:
    # Some successes, where only groups of different rewards are trained on.
    turns = {"dapo": "8", "cispo": "12"}
    more = {name: ["--data.play.max_turns", count] for name, count in turns.items()}
    more["gigpo"] = ["--data.prompter.history", "windowed"]
    panel = ["--trainer.callbacks+=sdar_pl.callbacks.TeacherPanel"]  # the teacher's success beside the student's
    more |= {"gats": panel, "retire_opd": panel}
    extra = more.get(name, [])
    run = fit_here(
        tmp_path,
        *["--config", str(ROOT / "configs" / "objectives" / f"{name}.yaml"), "--trainer.max_epochs", "1", *extra],
    )
    row: dict[str, Any] = metrics(run)[-1]
    assert math.isfinite(row["loss/total"])
