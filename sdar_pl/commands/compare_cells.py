"""The cells of a comparison: one method and one seed each, run by ``fit`` in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from sdar_pl.commands.compare_methods import Method
from sdar_pl.errors import UserError
from sdar_pl.reports.comparison import Run
from sdar_pl.runtime.files import remove, replacing, writing
from sdar_pl.runtime.metrics_csv import read_rows
from sdar_pl.runtime.processes import RUN_FOLDER


@dataclass(frozen=True)
class Cell:
    """One run to make."""

    method: Method
    seed: int
    folder: Path
    arguments: tuple[str, ...]  # of fit
    hash: str  # of all that decides the outcome: configurations, options, seed, version

    @property
    def results(self) -> Path:
        return self.folder / "cell.json"

    def finished(self) -> Run | None:
        """The results, if the cell has been run to its end with this configuration."""
        try:
            results = json.loads(self.results.read_text(encoding="utf-8"))
            if results.pop("hash") != self.hash:
                return None
            panels = {int(iteration): panel for iteration, panel in results.pop("panels").items()}
            return Run(**results, panels=panels)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def check_overrides(cells: Sequence[Cell], fit: Sequence[str]) -> None:
    """Let ``fit`` parse each method that has overrides. Raises ``UserError`` with the method and fit's error.

    Methods whose cells are all finished have been parsed before.
    """
    first_cells: dict[Method, Cell] = {}
    for cell in cells:
        if cell.method.has_overrides and not cell.finished():
            first_cells.setdefault(cell.method, cell)

    def parse(cell: Cell) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*fit, *cell.arguments, "--print_config"], capture_output=True, text=True, env=clean())

    with ThreadPoolExecutor(4) as pool:
        for method, done in zip(first_cells, pool.map(parse, first_cells.values()), strict=True):
            if done.returncode:
                error = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
                raise UserError(f"--objectives: {method.name}: {error.removeprefix('error: ')}")


def run_cell(cell: Cell, fit: Sequence[str], show: Callable[[str], None]) -> Run | str:
    """Run a cell from the start → its results, or the reason why there are none. ``show`` gets its latest line."""
    cell.results.unlink(missing_ok=True)
    remove(cell.folder / "run")
    cell.folder.mkdir(parents=True, exist_ok=True)
    status, last_line = run_logged([*fit, *cell.arguments], cell.folder / "log.txt", show)
    if status != 0:
        return f"{last_line or 'no output'} (exit status {status})"
    try:
        run = read_run(cell)
    except (OSError, ValueError, KeyError, TypeError, UserError) as error:
        return f"fit succeeded, but its results cannot be read: {type(error).__name__}: {error}"
    with replacing(cell.results) as partial:
        partial.write_text(json.dumps({"hash": cell.hash, **asdict(run)}) + "\n", encoding="utf-8")
    return run


def run_logged(command: Sequence[str], log_file: Path, show: Callable[[str], None]) -> tuple[int, str]:
    """Run a command with its output in a file → (exit status, its last line that is not empty).

    An exception, such as Ctrl-C's, kills the command and all processes that it has started.
    """
    last_line = ""
    with (
        writing(log_file, "w") as log,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**clean(), "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # Ctrl-C reaches this process alone
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                log.write(line)
                log.flush()
                last_line = line.strip() or last_line
                show(last_line)
            return process.wait(), last_line
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # nothing of an unfinished cell is kept
            raise


def clean() -> dict[str, str]:
    """This process's environment without the run folder of a run around it."""
    return {name: value for name, value in os.environ.items() if name != RUN_FOLDER}


def read_run(cell: Cell) -> Run:
    """A finished run's files → every panel task by task, seconds, generated tokens (of training)."""
    folder = cell.folder / "run"
    panels: dict[int, dict[str, float]] = {}
    for path in (path for path in folder.iterdir() if re.fullmatch(r"episodes(\.rank\d+)?\.jsonl", path.name)):
        with path.open(encoding="utf-8") as file:
            for line in file:
                if '"split": "validation"' in line[:60]:  # do not parse training episodes: most lines, and long ones
                    episode = json.loads(line)
                    panels.setdefault(episode["iteration"], {})[episode["task"]] = float(episode["success"])
    if len(panels) < 2:
        raise ValueError("episodes.jsonl holds no panels from before and after training; is validation on?")
    seconds = float(json.loads((folder / "summary.json").read_text(encoding="utf-8"))["seconds"])
    rows = read_rows(folder / "metrics.csv").values()
    generated = sum(float(row.get("rollout/generated_tokens", 0)) for row in rows)
    return Run(cell.method.name, cell.seed, dict(sorted(panels.items())), seconds, generated)
