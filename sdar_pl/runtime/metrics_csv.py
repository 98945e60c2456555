"""metrics.csv with one row for each iteration, where Lightning's CSVLogger writes a row for each call."""

from __future__ import annotations

import csv
import io
import os
import warnings
from collections.abc import Iterable, Sequence
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
    """Rows by step. Values logged later under the same step join its row.

    A save writes what is new at the end of the file, so that an iteration costs as much memory and time late in a run
    as early. Where a column is new or an earlier row changes, the file is replaced whole, atomically.
    """

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.path = Path(self.metrics_file_path)
        self.rows: dict[int, dict[str, Any]] = {}  # the file's last row, and those that are not in it yet
        self.columns: list[str] = []  # of the file
        self.last = self.begin = self.end = 0  # step of the file's last row, where it begins and ends (bytes)
        self._take_all()  # a resumed run has a file

    def _check_log_dir_exists(self) -> None:
        """Skip Lightning's warning, and its deletion of metrics.csv, for a folder that holds files."""

    def log_metrics(self, metrics_dict: dict[str, Any], step: int | None = None) -> None:
        """Add ``metrics_dict`` to the row of ``step``, or to a new row without a step."""
        values = {name: float(value) for name, value in metrics_dict.items()}
        number = max(self.rows, default=-1) + 1 if step is None else int(step)
        self.rows.setdefault(number, {"step": number}).update(values)

    def forget_after(self, step: int) -> None:
        """Drop the rows of iterations after ``step``, which a resumed run repeats."""
        self._take_all()
        self.rows = {number: row for number, row in self.rows.items() if number <= step}
        if self.path.exists():
            self._replace()

    def save(self) -> None:
        """Write what is not in the file yet."""
        if not self.rows:
            return
        names = {name for row in self.rows.values() for name in row} - {"step", "epoch"}
        size = self.path.stat().st_size if self.path.exists() else -1
        if size == self.end and min(self.rows) >= self.last and names <= {*self.columns}:
            self._append()
        else:
            self._take_all()
            self._replace()

    def _take_all(self) -> None:
        """Read the rows of the file, which must then be replaced whole."""
        rows: dict[int, dict[str, Any]] = {**read_rows(self.path)} if self.path.exists() else {}
        for number, row in self.rows.items():
            rows[number] = {**rows.get(number, {}), **row}
        self.rows, self.end = rows, -1

    def _append(self) -> None:
        """Write the rows over the file's last one, which is the first of them, and after it."""
        lines = self._lines()
        file = os.open(self.path, os.O_WRONLY | os.O_NOFOLLOW)
        try:
            os.pwrite(file, b"".join(lines), self.begin)
            os.ftruncate(file, self.begin + sum(map(len, lines)))
            os.fsync(file)
        finally:
            os.close(file)
        self._written(self.begin, lines)

    def _replace(self) -> None:
        self.columns = sorted({name for row in self.rows.values() for name in row} - {"step", "epoch"})
        lines = [_line(["step", *self.columns]), *self._lines()]
        with replacing(self.path) as partial:
            partial.write_bytes(b"".join(lines))
        self._written(0, lines)

    def _written(self, begin: int, lines: Sequence[bytes]) -> None:
        """Note where the last of the ``lines`` stands that have been written from ``begin`` on; forget the others."""
        self.last, self.end = max(self.rows, default=-1), begin + sum(map(len, lines))
        self.begin = self.end - len(lines[-1]) if self.rows else self.end
        self.rows = {number: row for number, row in self.rows.items() if number == self.last}

    def _lines(self) -> list[bytes]:
        return [_line([step, *(self.rows[step].get(name, "") for name in self.columns)]) for step in sorted(self.rows)]


def _line(cells: Iterable[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue().encode()


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
