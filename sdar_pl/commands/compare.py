"""``python -m sdar_pl compare``: methods against each other, on one panel and with paired seeds.

    python -m sdar_pl compare --config configs/quickstart.yaml --objectives "grpo,sdar,sdar(coefficient=0.2)" --seeds 5

A *cell* is one method and one seed: one ``fit`` run in a process of its own. Cells run one after the other, all
methods of a seed before the next seed, so that finished cells are always paired. Below ``--out``:

    <method>/seed-<seed>/run/        what fit writes (cli.py)
                         log.txt     its output
                         cell.json   its results, written last: a cell with this file and the same hash is finished
    comparison.csv  comparison.md  curves.png  curves.svg       (reports/comparison_files.py)

The same command again runs only what is missing; a cell that was stopped starts from the beginning.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from sdar_pl import __version__
from sdar_pl.checks import at_least
from sdar_pl.commands.compare_cells import Cell, check_overrides, run_cell
from sdar_pl.commands.compare_methods import parse_methods
from sdar_pl.errors import UserError
from sdar_pl.reports.comparison import Run
from sdar_pl.reports.comparison_files import in_brief, report
from sdar_pl.runtime.advice import command
from sdar_pl.runtime.config_files import read_config
from sdar_pl.runtime.messages import PlainParser
from sdar_pl.runtime.run_lock import FolderInUseError, locked
from sdar_pl.runtime.words import shown

FIT = (sys.executable, "-m", "sdar_pl", "fit")


def main(arguments: Sequence[str], fit: Sequence[str] = FIT) -> int:
    """The subcommand → exit status: 0, 1 if cells failed, 130 if it was stopped. Raises ``UserError``."""
    options, fit_options = parse(arguments)
    cells = cells_to_run(options, fit_options)
    console = Console(highlight=False, soft_wrap=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the running cell is killed
    try:
        check_overrides(cells, fit)
        options.out.mkdir(parents=True, exist_ok=True)
        with locked(options.out):
            done, failed, stopped = run_all(cells, fit, console)
            if done:
                names = list(dict.fromkeys(cell.method.name for cell in cells))
                report(done, names, options.out, command("compare", *arguments), console)
    except FolderInUseError as error:
        raise UserError(f"--out: {error}; wait for its end, or give another folder") from error
    except OSError as error:
        raise UserError(f"--out: cannot write to {options.out}: {error.strerror}; give another folder") from error
    except KeyboardInterrupt:
        return 130
    if failed or stopped:
        names = [f"{cell.method.name} seed {cell.seed}" for cell in failed]
        reason = "stopped" if stopped else "failed: " + ", ".join(names)
        counts = f"{len(done)} of {len(cells)} cells are finished"
        console.print(f"{counts}; {reason}. The same command runs what is missing.", markup=False)
    return 130 if stopped else int(bool(failed))


# ---------------------------------------------------------------------- the command line


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Arguments → the options of compare, and the rest, which every ``fit`` gets. Raises ``UserError``."""
    parser = PlainParser(
        prog="python -m sdar_pl compare",
        description="Compare methods on the same panel with paired seeds. Other options go to every fit.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="append", required=True, type=Path, help="the recipe; may be given often")
    parser.add_argument(
        "--objectives",
        required=True,
        help="methods with commas between them: names of parts in the folders beside the config, or YAML files; + "
        "joins several; overrides stand in parentheses: sdar+random_skills, 'sdar(coefficient=0.2)'. Keys are relative "
        "to the objective, or full as in model.teacher=Initial. The others are compared with the first method.",
    )
    parser.add_argument("--seeds", type=int, default=5, help="runs of each method (5)")
    parser.add_argument("--budget", type=int, default=None, help="iterations of each run (the recipe's)")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="folder of all results (runs/compare)")
    options, fit_options = parser.parse_known_args(list(arguments))
    at_least("--seeds", options.seeds, 1)
    at_least("--budget", options.budget, 1)
    return options, fit_options


def cells_to_run(options: argparse.Namespace, fit_options: Sequence[str]) -> list[Cell]:
    """All cells in the order in which they run. Raises ``UserError`` for what cannot be found or read."""
    base = [read_config(str(path)) for path in options.config]
    methods = parse_methods(str(options.objectives), options.config[0])
    first = first_seed(base, fit_options)
    budget = [] if options.budget is None else [f"--trainer.max_epochs={options.budget}"]
    cells = []
    for seed in range(first, first + options.seeds):
        for method in methods:
            folder = options.out / method.folder / f"seed-{seed}"
            settings = [*fit_options, *budget, f"--seed_everything={seed}"]
            facts = [__version__, base, method.content(), settings]
            digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
            recipe = [f"--config={path}" for path in options.config]
            place = [f"--trainer.default_root_dir={folder}", "--run=run"]
            cells.append(Cell(method, seed, folder, (*recipe, *method.arguments, *settings, *place), digest))
    return cells


def first_seed(base: Sequence[Any], fit_options: Sequence[str]) -> int:
    """``seed_everything`` of the options, else of the configs, else 0."""
    in_options = re.findall(r"--seed_everything[= ](\d+)", " ".join(fit_options))
    in_configs = [c["seed_everything"] for c in base if isinstance(c, dict) and "seed_everything" in c]
    return int([0, *in_configs, *in_options][-1])


# ---------------------------------------------------------------------- all cells


def run_all(cells: Sequence[Cell], fit: Sequence[str], console: Console) -> tuple[list[Run], list[Cell], bool]:
    """(finished runs, failed cells, whether Ctrl-C came)."""
    done: list[Run] = []
    failed: list[Cell] = []
    width = max(len(cell.method.name) for cell in cells)
    note = TextColumn("{task.fields[note]}", markup=False)
    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(20), MofNCompleteColumn(), note
    live = Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal)
    task = live.add_task("", total=len(cells), note="")

    def show(line: str) -> None:
        live.update(task, note=shown(line, max(10, console.width - width - 50)))

    try:
        with live:
            for number, cell in enumerate(cells, 1):
                name = cell.method.name
                head = f"{number:>{len(str(len(cells)))}}/{len(cells)} · {name:<{width}} · seed {cell.seed}"
                live.update(task, description=f"{name} seed {cell.seed}", note="")
                kept = cell.finished()
                if kept is None and not console.is_terminal:
                    console.print(f"{head} · started", markup=False)
                result = kept or run_cell(cell, fit, show)
                if isinstance(result, str):
                    failed.append(cell)
                    console.print(f"{head} · FAILED: {shown(result)} – see {cell.folder / 'log.txt'}", markup=False)
                else:
                    done.append(result)
                    console.print(f"{head} · {in_brief(result)}{' · kept' if kept else ''}", markup=False)
                live.advance(task)
    except KeyboardInterrupt:
        return done, failed, True
    return done, failed, False
