"""What the scripts of the study measure, on small amounts of the real thing."""

from __future__ import annotations

import json
from pathlib import Path

import gap_over_training
import measure_gate_variance
import pytest
import torch

from sdar_pl.policy import LoRA, Policy


@pytest.mark.slow
def test_the_centred_gate_has_the_same_mean_and_less_variance_on_real_rollouts() -> None:
    torch.manual_seed(0)
    policy = Policy("tiny-household", lora=LoRA())
    policy.build()
    found = measure_gate_variance.measure(policy, episodes=96)
    assert found["ratio"] > 1.05
    assert found["apart"] < 2, "the mean gradients differ by more than chance"


def test_the_gap_is_a_mean_over_finished_seeds(tmp_path: Path) -> None:
    for name, seed, gaps in (
        ("sdar", 0, [-1.0, -0.5]),
        ("sdar", 1, [-2.0, -1.5]),
        ("sdar", 2, [-9.0]),
        ("grpo", 0, []),
    ):
        run = tmp_path / name / f"seed-{seed}" / "run"
        run.mkdir(parents=True)
        rows = "".join(f"{step},{gap}\n" for step, gap in enumerate(gaps, 1))
        (run / "metrics.csv").write_text(f"step,gap/mean\n0,\n{rows}")
        if seed < 2:
            (run.parent / "cell.json").write_text(json.dumps({"objective": f"{name}(coefficient=1)"}))
    lines = gap_over_training.table(tmp_path, "gap/mean", 1).splitlines()
    assert lines[0] == "| objective | seeds | 1 | 2 |"
    assert lines[2:] == ["| sdar(coefficient=1) | 2 | -1.500 | -1.000 |"]
