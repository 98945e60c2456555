"""One process, DDP×2 and FSDP2×2, ×4, started through the command line, give the same episodes, metrics and weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import ROOT, episodes, fit, metrics, weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("alone"), "run")


@pytest.mark.parametrize(("strategy", "devices"), [("ddp", 2), ("fsdp2", 2), ("fsdp2", 4)])
def test_any_number_of_ranks_gives_the_same(strategy: str, devices: int, alone: Path, tmp_path: Path) -> None:
    run = fit(tmp_path, "run", "--trainer.strategy", strategy, "--trainer.devices", str(devices))
    assert episodes(run) == episodes(alone)
    for mine, theirs in zip(metrics(run), metrics(alone), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5, rel=1e-5)
    ours, expected = weights(run), weights(alone)
    assert ours.keys() == expected.keys()
    assert all(torch.allclose(ours[name], expected[name], atol=1e-5) for name in expected)


def test_a_divergence_over_the_vocabulary_does_not_care_for_ranks(tmp_path: Path) -> None:
    """Also where a rank has a blank micro-batch."""
    chosen = ["--config", str(ROOT / "configs" / "objectives" / "sdar_js.yaml"), "--trainer.max_epochs", "1"]
    one = fit(tmp_path, "one", *chosen)
    two = fit(tmp_path, "two", *chosen, "--trainer.strategy", "fsdp2", "--trainer.devices", "2")
    assert metrics(one)[-1]["loss/distill"] > 0
    for mine, theirs in zip(metrics(two), metrics(one), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5, rel=1e-5)
    assert all(torch.allclose(tensor, weights(one)[name], atol=1e-5) for name, tensor in weights(two).items())
