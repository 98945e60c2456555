"""metrics.csv: one row for each step, kept and continued by a resumed run."""

from __future__ import annotations

from pathlib import Path

from helpers.runs import metrics

from sdar_pl.runtime.metrics_csv import MetricsCSV


def test_values_of_a_step_are_one_row(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"b": 1.0, "epoch": 7}, step=1)
    logger.log_metrics({"a": 0.5}, step=0)
    logger.log_metrics({"a": 2.0}, step=1)
    logger.save()
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["step,a,b", "0,0.5,", "1,2.0,1.0"]


def test_a_resumed_run_keeps_the_rows_before_it(tmp_path: Path) -> None:
    first = MetricsCSV(tmp_path)
    for step in range(4):
        first.log_metrics({"a": float(step)}, step=step)
    first.save()
    resumed = MetricsCSV(tmp_path)
    resumed.experiment.forget_after(1)
    resumed.log_metrics({"a": 20.0}, step=2)
    resumed.save()
    assert metrics(tmp_path) == [{"step": 0, "a": 0}, {"step": 1, "a": 1}, {"step": 2, "a": 20}]
