"""Throughput: seconds of each phase and tokens per second, from metrics.csv of a run."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
from helpers.scripted import episode, fit_script, row

from sdar_pl.callbacks import Throughput
from sdar_pl.callbacks.trainer_access import data_of


def test_seconds_and_tokens(tmp_path: Path, make_policy: Callable[..., Any]) -> None:
    steps: list[Any] = [([row(0, [0], [1.0])], {})] * 2
    fit_script(tmp_path, make_policy(), [Throughput()], [([episode("0", True)], steps)], limit_val_batches=0)
    (line,) = csv.DictReader((tmp_path / "metrics.csv").open())
    assert float(line["rollout/tokens_per_s"]) == 300 / 2
    assert float(line["rollout/generated_tokens"]) == 300
    assert float(line["rollout/prefilled_tokens"]) == 70
    assert (float(line["time/rollout_s"]), float(line["time/score_s"])) == (2.0, 0.5)
    assert 0 < float(line["time/update_s"]) < 5
    assert 0.1 < float(line["memory/rollout_gib"]) <= float(line["memory/update_gib"]) < 100


def test_an_update_is_without_the_seconds_that_it_waits(tmp_path: Path, make_policy: Callable[..., Any]) -> None:
    class Waits(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            data_of(trainer).ahead = True
            data_of(trainer).kept.waited_s += 100.0

    steps: list[Any] = [([row(0, [0], [1.0])], {})] * 2
    iterations = [([episode("0", True)], steps)] * 2
    fit_script(tmp_path, make_policy(), [Waits(), Throughput()], iterations, limit_val_batches=0)
    lines = [*csv.DictReader((tmp_path / "metrics.csv").open())]
    assert [float(line["time/wait_s"]) for line in lines] == [200.0, 200.0]
    assert all(-200.0 < float(line["time/update_s"]) < -100.0 for line in lines)
