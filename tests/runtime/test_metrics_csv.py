"""metrics.csv: one row for each step, kept and continued by a resumed run."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.runs import metrics

from sdar_pl.runtime import metrics_csv
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


def test_a_late_row_costs_no_more_than_an_early_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last row is held, and the file is neither read nor replaced for a row with known columns."""
    logger, replaced = MetricsCSV(tmp_path), []
    replacing = metrics_csv.replacing
    monkeypatch.setattr(metrics_csv, "replacing", lambda path: replaced.append(1) or replacing(path))
    for step in range(100):
        logger.log_metrics({"a": step + 0.123456789}, step=step)
        logger.log_metrics({"a": float(step), "b": step / 7}, step=step)  # a shorter row takes the place of the longer
    assert len(replaced) == 2, "the first row, and the second column"
    assert list(logger.experiment.rows) == [99]
    assert metrics(tmp_path) == [{"step": step, "a": step, "b": step / 7} for step in range(100)]


@pytest.mark.parametrize("event", ["column", "earlier", "edited", "removed", "link"])
def test_what_is_not_at_the_end_replaces_the_file(event: str, tmp_path: Path) -> None:
    logger, path = MetricsCSV(tmp_path), tmp_path / "metrics.csv"
    for step in range(3):
        logger.log_metrics({"a": float(step)}, step=step)
    kept = [{"step": step, "a": step} for step in range(3)]
    more: dict[str, float] = {"b": 1.0} if event == "column" else {"a": 9.0}
    if event == "edited":
        path.write_text("step,a\n0,7.5\n")
        kept = [{"step": 0, "a": 7.5}, kept[2]]
    elif event == "removed":
        path.unlink()
        kept = kept[2:]
    elif event == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError, match="symbolic links"):
            logger.log_metrics(more, step=3)
        assert len((tmp_path / "elsewhere").read_text().splitlines()) == 4
        return
    step = 1 if event == "earlier" else 3
    logger.log_metrics(more, step=step)
    rows = {int(row["step"]): row for row in kept}
    rows[step] = {**rows.get(step, {"step": step}), **more}
    assert metrics(tmp_path) == [rows[number] for number in sorted(rows)]
    logger.log_metrics({"a": 4.0}, step=4)
    assert metrics(tmp_path)[-1] == {"step": 4, "a": 4}
