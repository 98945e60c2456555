"""What the scripts of the study measure, on small amounts of the real thing."""

from __future__ import annotations

import json
from pathlib import Path

import gap_over_training
import measure_gate_variance
import measure_penalty_forms
import pytest
import torch
from helpers.builders import a_row

from sdar_pl.policy import LoRA, Policy
from sdar_pl.types import Episode, Observation, Task, Turn


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


def test_the_forms_of_the_penalty_differ_where_all_fail() -> None:
    """Two failed episodes of two turns, one turn invalid: what each form gives the guilty turn and the others."""

    def episode(index: int, *penalties: float) -> Episode:
        turns = [Turn([1], [2], [-0.1], "", "look", not p, Observation(""), penalty=p) for p in penalties]
        return Episode(Task("a", "find", ""), 0, index, Observation(""), turns=turns)

    episodes = [episode(0, 0.0, 0.1), episode(1, 0.0, 0.0)]
    rows = [a_row(number, 6, [(1, 2), (3, 4)]) for number in range(2)]
    measure_penalty_forms.by_row(rows, episodes, None)
    assert [*rows[0].advantages, *rows[1].advantages] == pytest.approx([0.5, -1.5, 0.5, 0.5], abs=1e-4)
    measure_penalty_forms.by_episode(rows, episodes, None)
    assert [*rows[0].advantages, *rows[1].advantages] == pytest.approx([-0.7071, -0.7071, 0.7071, 0.7071], abs=1e-4)


@pytest.mark.slow
def test_a_policy_is_taught_to_forget_the_closing_tag(tmp_path: Path) -> None:
    measure_penalty_forms.careless(tmp_path / "model", share=0.5, episodes=48, passes=6)
    figures = measure_penalty_forms.train(tmp_path / "model", "row", 0, 1, tmp_path / "out")
    assert figures["train/valid_action"] < 0.95
