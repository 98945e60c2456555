"""metrics.csv with one row for each iteration, where Lightning's CSVLogger writes a row for each call."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from sdar_pl.errors import UserError
from sdar_pl.runtime.files import replacing


def read_rows(path: Path) -> dict[int, dict[str, str]]:
    """The rows of a metrics.csv by step, without empty cells. Damaged lines are left out, with a warning.

    Raises ``UserError`` for a file that is no metrics.csv, and ``OSError``.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = text.splitlines()
    header = next(csv.reader(lines[:1]), [])
    if lines and (header[:1] != ["step"] or "\0" in lines[0]):
        raise UserError(f"{path}: its first line is not that of a metrics.csv; move the file away, or mend the line")
    rows: dict[int, dict[str, str]] = {}
    complete = lines[1:] if text.endswith("\n") else lines[1:-1]
    for line in complete:
        cells = next(csv.reader([line.replace("\0", "")]), [])
        if "\0" not in line and len(cells) == len(header) and cells[0].isdecimal():
            rows[int(cells[0])] = {name: cell for name, cell in zip(header, cells, strict=True) if cell}
    if len(rows) < len(lines) - 1:
        warnings.warn(f"{path}: {len(lines) - 1 - len(rows)} damaged lines are left out", stacklevel=2)
    return rows


class _Rows(ExperimentWriter):
    """Rows by step. Values logged later under the same step join its row. The file is replaced atomically."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.rows: dict[int, dict[str, Any]] = {}
        path = Path(self.metrics_file_path)
        if path.exists():  # the run is resumed
            self.rows = read_rows(path)

    def _check_log_dir_exists(self) -> None:
        """Skip Lightning's warning, and its deletion of metrics.csv, for a folder that holds files."""

    def log_metrics(self, metrics_dict: dict[str, Any], step: int | None = None) -> None:
        """Add ``metrics_dict`` to the row of ``step``, or to a new row without a step."""
        values = {name: float(value) for name, value in metrics_dict.items()}
        number = len(self.rows) if step is None else int(step)
        self.rows.setdefault(number, {"step": number}).update(values)

    def forget_after(self, step: int) -> None:
        """Drop the rows of iterations after ``step``, which a resumed run repeats."""
        self.rows = {number: row for number, row in self.rows.items() if number <= step}

    def save(self) -> None:
        """Write all rows."""
        if not self.rows:
            return
        names = sorted({name for row in self.rows.values() for name in row} - {"step", "epoch"})
        with replacing(Path(self.metrics_file_path)) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["step", *names], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self.rows[number] for number in sorted(self.rows))


class MetricsCSV(CSVLogger):
    """Logger that writes ``metrics.csv``.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, name="", version="", flush_logs_every_n_steps=1)

    @property
    @rank_zero_experiment
    def experiment(self) -> _Rows:
        """The writer, on rank 0."""
        if self._experiment is None:
            self._experiment = _Rows(str(self.save_dir))
        rows = self._experiment
        assert isinstance(rows, _Rows)
        return rows
