"""GateStats: figures worked out by hand, from metrics.csv of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import metrics
from helpers.scripted import Step, episode, events, fit_script, row

from sdar_pl.callbacks import GateStats
from sdar_pl.callbacks.gate_stats import BUCKETS, splits


@pytest.fixture
def gate_stats(tmp_path: Path, make_policy: Callable[..., Any]) -> Callable[..., dict[str, float]]:
    """The row of an iteration of these micro-batches."""

    def run(*steps: Step) -> dict[str, float]:
        played = ([episode(str(n), True) for n in range(3)], list(steps))
        fit_script(tmp_path, make_policy(), [GateStats()], [played], limit_val_batches=0)
        return {name: value for name, value in metrics(tmp_path)[-1].items() if name.startswith(("gate", "gap"))}

    return run


def test_every_token_counts_once(gate_stats: Callable[..., dict[str, float]]) -> None:
    short = [row(0, [0], [1.0])], {"gate": [[0.9]], "gap": [[0.4]]}
    long = (
        [row(1, [0, 1, 1, 5], [-1.0] * 4), row(2, [0], [0.0])],
        {"gate": [[0.1] * 4, [0.6]], "gap": [[-1.0] * 4, [0.2]]},
    )
    figures = gate_stats(short, long)
    assert figures["gate/mean"] == pytest.approx((0.9 + 0.4 + 0.6) / 6)  # the mean of means would be 0.55
    assert figures["gate/active"] == pytest.approx(2 / 6)
    assert figures["gap/mean"] == pytest.approx((0.4 - 4 + 0.2) / 6)
    assert figures["gap/negative_fraction"] == pytest.approx(4 / 6)
    assert figures["gate/mean/positive_advantage"] == pytest.approx(0.9)
    assert figures["gate/mean/negative_advantage"] == pytest.approx(0.1)
    assert figures["gap/mean/zero_advantage"] == pytest.approx(0.2)
    assert figures["gate/mean/turns_0"] == pytest.approx((0.9 + 0.1 + 0.6) / 3)
    assert figures["gap/mean/turns_1-2"] == pytest.approx(-1)
    assert figures["gap/negative_fraction/turns_3-5"] == 1
    assert "gate/mean/turns_6-11" not in figures
    assert "gate/mean/turns_12-up" not in figures


def test_advantages_may_differ_within_a_turn(gate_stats: Callable[..., dict[str, float]]) -> None:
    figures = gate_stats(([row(0, [0, 0], [1.0, -1.0])], {"gate": [[0.2, 0.8]]}))
    assert figures["gate/mean/positive_advantage"] == pytest.approx(0.2)
    assert figures["gate/mean/negative_advantage"] == pytest.approx(0.8)


def test_rounding_errors_are_neither_negative_nor_active(gate_stats: Callable[..., dict[str, float]]) -> None:
    tokens = {"gate": [[0.50002, 0.5003]], "gap": [[-2e-5, -2e-4]]}
    figures = gate_stats(([row(0, [0, 0], [1.0, 1.0])], tokens))
    assert figures["gate/active"] == figures["gap/negative_fraction"] == 0.5


def test_values_that_are_not_finite_are_left_out(gate_stats: Callable[..., dict[str, float]]) -> None:
    figures = gate_stats(([row(0, [0, 0, 0], [1.0] * 3)], {"gate": [[0.2, float("nan"), 0.6]]}))
    assert figures["gate/mean"] == pytest.approx(0.4)


def test_without_a_teacher_nothing_is_logged(gate_stats: Callable[..., dict[str, float]]) -> None:
    assert gate_stats(([row(0, [0, 0, 0], [1.0] * 3)], {})) == {}


def test_records_of_some_micro_batches_or_of_one_kind(gate_stats: Callable[..., dict[str, float]]) -> None:
    without = [row(0, [0, 0, 0], [1.0] * 3)], {}
    figures = gate_stats(without, ([row(1, [0], [1.0])], {"gap": [[0.1]]}))
    assert figures["gap/mean"] == pytest.approx(0.1)
    assert "gate/mean" not in figures


def test_magnitudes_count_turns_alike(tmp_path: Path, make_policy: Callable[..., Any]) -> None:
    short = [row(0, [0], [1.0])], {"gap": [[0.4]]}
    long = [row(1, [0, 1, 1, 5], [-1.0] * 4), row(2, [0], [0.0])], {"gap": [[-1.0, 0.5, -0.1, 0.0], [-0.2]]}
    played = ([episode(str(n), True) for n in range(3)], [short, long])
    fit_script(tmp_path, make_policy(), [GateStats()], [played], limit_val_batches=0)
    wanted = (0.4 + 1.0 + 0.3 + 0.0 + 0.2) / 5  # the mean over tokens would be 2.2 / 6
    assert metrics(tmp_path)[-1]["distill/turn_gap"] == pytest.approx(wanted)


def test_an_iteration_forgets_the_one_before(tmp_path: Path, make_policy: Callable[..., Any]) -> None:
    played = [([episode("0", True)], [([row(0, [0], [1.0])], {"gate": [[gate]]})]) for gate in (0.25, 0.75)]
    fit_script(tmp_path, make_policy(), [GateStats()], played, limit_val_batches=0)
    assert [line["gate/mean"] for line in metrics(tmp_path)] == [0.25, 0.75]


def test_tensorboard_gets_a_histogram_of_each_record(tmp_path: Path, make_policy: Callable[..., Any]) -> None:
    step = [row(0, [0, 0, 1], [1.0] * 3)], {"gate": [[0.0, 0.5, 1.0]], "gap": [[-9.0, 0.0, 9.0]]}
    fit_script(tmp_path, make_policy(), [GateStats()], [([episode("0", True)], [step])], limit_val_batches=0)
    found = events(tmp_path)
    assert sorted(found.Tags()["histograms"]) == ["gap/histogram", "gate/histogram"]
    for name, largest in ("gate", 1.0), ("gap", 9.0):
        (event,) = found.Histograms(f"{name}/histogram")
        assert (event.step, event.histogram_value.num, event.histogram_value.max) == (1, 3, largest)


def test_every_turn_falls_into_one_bucket() -> None:
    turns = torch.arange(60)
    parts = splits(turns, torch.zeros(60))
    by_turn = [inside for name, inside in parts.items() if name.startswith("/turns_")]
    assert len(by_turn) == len(BUCKETS)
    assert torch.stack(by_turn).sum(0).eq(1).all()
