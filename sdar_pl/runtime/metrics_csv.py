"""metrics.csv with one row an iteration: Lightning's CSVLogger writes a row for every call instead."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter


class _Rows(ExperimentWriter):
    """Rows by step. What is logged later under the same step joins its row; the file is replaced atomically."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.rows: dict[int, dict[str, Any]] = {}
        path = Path(self.metrics_file_path)
        if path.exists():  # a resumed run goes on with its file
            with path.open(newline="") as file:
                self.rows = {int(row["step"]): {k: v for k, v in row.items() if v} for row in csv.DictReader(file)}

    def _check_log_dir_exists(self) -> None:
        """A run folder holds other files too; that is no reason to warn or to delete metrics."""

    def log_metrics(self, metrics_dict: dict[str, Any], step: int | None = None) -> None:
        values = {name: float(value) for name, value in metrics_dict.items()}
        number = len(self.rows) if step is None else int(step)
        self.rows.setdefault(number, {"step": number}).update(values)

    def forget_after(self, step: int) -> None:
        """Drop the rows of later iterations: a run resumed from before them makes them again."""
        self.rows = {number: row for number, row in self.rows.items() if number <= step}

    def save(self) -> None:
        if not self.rows:
            return
        names = sorted({name for row in self.rows.values() for name in row} - {"step", "epoch"})
        path = Path(self.metrics_file_path)
        partial = path.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["step", *names], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self.rows[number] for number in sorted(self.rows))
        os.replace(partial, path)


class MetricsCSV(CSVLogger):
    """``<run folder>/metrics.csv``."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, name="", version="", flush_logs_every_n_steps=1)

    @property
    @rank_zero_experiment
    def experiment(self) -> _Rows:
        if self._experiment is None:
            self._experiment = _Rows(str(self.save_dir))
        rows = self._experiment
        assert isinstance(rows, _Rows)
        return rows
