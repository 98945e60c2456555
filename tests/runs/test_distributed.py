"""One process, DDP×2 and FSDP2×2, ×4, started through the command line, give the same episodes, metrics and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.models import shake, written
from helpers.runs import ROOT, episodes, fit, metrics, weights

from sdar_pl.policy import LoRA, Policy

pytestmark = pytest.mark.slow


def saved(run: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A teacher under an adapter of its own: every rank loads it beside the policy's, which FSDP2 has sharded."""
    policy = Policy("tiny-household", LoRA(r=4, alpha=8))
    policy.build()
    shake(policy, 5)
    folder = written(policy, tmp_path_factory.mktemp("teacher"))
    return ["--config", str(ROOT / "configs/teachers/trained.yaml"), "--model.teacher.init_args.folder", folder]


@pytest.fixture(scope="module")
def alone(trained: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("alone"), "run", *trained)


@pytest.mark.parametrize(("strategy", "devices"), [("ddp", 2), ("fsdp2", 2), ("fsdp2", 4)])
def test_any_number_of_ranks_gives_the_same(
    strategy: str, devices: int, trained: list[str], alone: Path, tmp_path: Path
) -> None:
    """Also where the teacher has a frozen adapter; the reference reads with adapters off, as the initial one would."""
    run = fit(tmp_path, "run", *trained, "--trainer.strategy", strategy, "--trainer.devices", str(devices))
    compare(run, alone)
    assert not [name for name in weights(run) if ".teacher." in name]


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


#: read at every step, where each rank has its shard of the weights alone
AVERAGE = [
    *["--config", str(ROOT / "configs" / "teachers" / "ema.yaml"), "--model.teacher_refresh", "step"],
    "--trainer.callbacks+=sdar_pl.callbacks.TeacherPanel",
]
SHARDED = ["--trainer.strategy", "fsdp2", "--trainer.devices", "2"]


def test_a_moving_average_is_sharded_and_saved_whole(tmp_path: Path) -> None:
    alone, run = fit(tmp_path, "alone", *AVERAGE), fit(tmp_path, "run", *AVERAGE, *SHARDED)
    assert saved(run)["teacher"].keys() == {name.removeprefix("policy.") for name in weights(run)}
    compare(run, alone)


def test_a_moving_average_goes_on_with_another_number_of_ranks(tmp_path: Path) -> None:
    options = [*AVERAGE, "--model.policy.quantization", "nf4"]
    alone = fit(tmp_path, "alone", *options)
    fit(tmp_path, "parts", *options, "--trainer.max_epochs", "1")
    compare(fit(tmp_path, "parts", *options, *SHARDED, "--ckpt_path", "last"), alone)


def test_what_is_learnt_from_the_whole_batch(tmp_path: Path) -> None:
    """REINFORCE++'s normalisation and the bandit's counts are those of all ranks, with groups dropped, kept for the
    distillation and refilled, and an average that every rank keeps for itself."""
    options = [
        *["--data.advantage", "sdar_pl.objectives.BatchAdvantage", "--data.max_refills", "2"],
        *["--data.keep_for_distillation", "true"],
        *["--config", str(ROOT / "configs" / "contexts" / "ucb_skills.yaml")],
        *["--config", str(ROOT / "configs" / "teachers" / "ema.yaml")],
        *["--data.play.max_turns", "8", "--data.group_size", "4", "--trainer.max_epochs", "3"],
    ]
    alone = fit(tmp_path, "alone", *options)
    assert max(row.get("rollout/refills", 0) for row in metrics(alone)) > 1
    assert min(row.get("rollout/refills", 9) for row in metrics(alone)) < 8, "some groups were trained on"
    compare(fit(tmp_path, "run", *options, "--trainer.strategy", "ddp", "--trainer.devices", "2"), alone)


def test_a_divergence_over_the_vocabulary_does_not_care_for_ranks(tmp_path: Path) -> None:
    """Also where a rank has a blank micro-batch."""
    files = [f"--config={ROOT / 'configs' / name}.yaml" for name in ("objectives/sdar_js", "teachers/current")]
    chosen = [*files, "--trainer.max_epochs", "1"]
    one = fit(tmp_path, "one", *chosen)
    two = fit(tmp_path, "two", *chosen, "--trainer.strategy", "fsdp2", "--trainer.devices", "2")
    assert metrics(one)[-1]["loss/distill"] > 0
    for mine, theirs in zip(metrics(two), metrics(one), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5, rel=1e-5)
    assert all(torch.allclose(tensor, weights(one)[name], atol=1e-5) for name, tensor in weights(two).items())
