"""``python -m sdar_pl compare``: objectives against each other, on one panel and with paired seeds.

    python -m sdar_pl compare --config configs/quickstart.yaml --objectives grpo,sdar,sdar+random_skills --seeds 5

A *cell* is one objective and one seed: one ``fit`` run in a process of its own. Cells run one after the other, all
objectives of a seed before the next seed, so that what is finished is always paired. Below ``--out``:

    <objective>/seed-<seed>/run/        what fit writes (cli.py)
                            log.txt     what it said
                            cell.json   its results, written last: with it (and the same hash) a cell is finished
    comparison.csv  comparison.md  curves.png  curves.svg       (report.py)

The same command again runs only what is missing, and a cell that was stopped starts from the beginning.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from sdar_pl import __version__
from sdar_pl.errors import UserError
from sdar_pl.reports import comparison as report
from sdar_pl.reports.comparison import Run
from sdar_pl.runtime.messages import PlainParser

FIT = (sys.executable, "-m", "sdar_pl", "fit")
#: run_folder.py's, which must not reach the cells from a run around this one
RUN_FOLDER = "SDAR_PL_RUN_FOLDER"
#: folders of configs whose files are parts: they change a recipe
PART_FOLDERS = ("objectives", "contexts", "teachers", "models", "hardware")


@dataclass(frozen=True)
class Cell:
    """One run to make. ``hash`` is of all that decides its outcome: configurations, options, seed, version."""

    objective: str
    seed: int
    folder: Path
    arguments: tuple[str, ...]
    hash: str

    @property
    def results(self) -> Path:
        return self.folder / "cell.json"

    def finished(self) -> Run | None:
        """Its results, if it has been run to the end with this configuration."""
        try:
            known = json.loads(self.results.read_text(encoding="utf-8"))
            if known.pop("hash") != self.hash:
                return None
            panels = {int(number): panel for number, panel in known.pop("panels").items()}
            return Run(**known, panels=panels)
        except (OSError, ValueError, KeyError, TypeError):
            return None


# ---------------------------------------------------------------------- the command line


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Arguments → the options of compare, and what is left for ``fit``. Raises ``UserError``."""
    parser = PlainParser(
        prog="python -m sdar_pl compare",
        description="Compare objectives on the same panel with paired seeds. Other options go to every fit.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="append", required=True, type=Path, help="the recipe; may be given often")
    parser.add_argument(
        "--objectives",
        required=True,
        help="names in the folders objectives/, contexts/ and teachers/ beside the config, or YAML files, with commas "
        "between them; + joins several: sdar+random_skills. The first is what the others are compared with.",
    )
    parser.add_argument("--seeds", type=int, default=5, help="runs of each objective (5)")
    parser.add_argument("--budget", type=int, default=None, help="iterations of each run (the recipe's)")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="where all goes (runs/compare)")
    options, rest = parser.parse_known_args(list(arguments))
    for name in ("seeds", "budget"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name}: {value} must be 1 or more")
    return options, rest


def plan(options: argparse.Namespace, rest: Sequence[str]) -> list[Cell]:
    """All cells in the order in which they are run. Raises ``UserError`` for what cannot be found or read."""
    base = [content(path, "--config") for path in options.config]
    methods: dict[str, list[Path]] = {}
    for word in str(options.objectives).split(","):
        files = [find(part.strip(), options.config[0]) for part in word.split("+")]
        name = "+".join(path.stem for path in files)
        if name in methods:
            raise UserError(f"--objectives: {name!r} is named twice; name it once, or give the files other names")
        methods[name] = files
    first = first_seed(base, rest)
    budget = [] if options.budget is None else [f"--trainer.max_epochs={options.budget}"]
    cells = []
    for seed in range(first, first + options.seeds):
        for name, files in methods.items():
            folder = options.out / name / f"seed-{seed}"
            settings = [*rest, *budget, f"--seed_everything={seed}"]
            facts = [__version__, base, [content(path, "--objectives") for path in files], settings]
            digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
            configs = [f"--config={path}" for path in [*options.config, *files]]
            place = [f"--trainer.default_root_dir={folder}", "--run=run"]
            cells.append(Cell(name, seed, folder, (*configs, *settings, *place), digest))
    return cells


def find(name: str, config: Path) -> Path:
    """The file of an objective, a context or a teacher. Raises ``UserError`` with the names that there are."""
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise UserError(f"--objectives: no file {name}")
        return Path(name)
    folders = [above / kind for above in (config.parent, config.parent.parent) for kind in PART_FOLDERS]
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    raise UserError(f"--objectives: no {name!r} beside {config}; give a file or one of {', '.join(known) or 'none'}")


def content(path: Path, option: str) -> Any:
    """A YAML file's content, without comments and layout."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{option}: {path} cannot be read ({getattr(error, 'strerror', error)})") from error
    except yaml.YAMLError as error:
        raise UserError(f"{option}: {path} is no YAML: {error}") from error


def first_seed(base: Sequence[Any], rest: Sequence[str]) -> int:
    """``seed_everything`` of the options, else of the configs, else 0."""
    given = re.findall(r"--seed_everything[= ](\d+)", " ".join(rest))
    named = [config["seed_everything"] for config in base if isinstance(config, dict) and "seed_everything" in config]
    return int([0, *named, *given][-1])


# ---------------------------------------------------------------------- one cell


def run(cell: Cell, fit: Sequence[str], tell: Callable[[str], None]) -> Run | str:
    """Run a cell from the start → its results, or what went wrong. ``tell`` hears each line that it says."""
    cell.results.unlink(missing_ok=True)
    shutil.rmtree(cell.folder / "run", ignore_errors=True)
    cell.folder.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != RUN_FOLDER}
    said = ""
    with (
        (cell.folder / "log.txt").open("w", encoding="utf-8") as log,
        subprocess.Popen(
            [*fit, *cell.arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**environment, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # Ctrl-C comes to us alone; we end it and all that it has started
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                log.write(line)
                log.flush()
                said = line.strip() or said
                tell(said)
            status = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # nothing of an unfinished cell is kept
            raise
    if status != 0:
        return f"{said or 'it said nothing'} (exit status {status})"
    try:
        result = collect(cell)
    except (OSError, ValueError, KeyError) as error:
        return f"fit ended well, but its results cannot be read: {type(error).__name__}: {error}"
    partial = cell.results.with_suffix(".partial")
    partial.write_text(json.dumps({"hash": cell.hash, **asdict(result)}) + "\n", encoding="utf-8")
    os.replace(partial, cell.results)
    return result


def collect(cell: Cell) -> Run:
    """What a run's files say: every panel task by task, seconds, generated tokens (of training)."""
    folder = cell.folder / "run"
    panels: dict[int, dict[str, float]] = {}
    for path in (path for path in folder.iterdir() if re.fullmatch(r"episodes(\.rank\d+)?\.jsonl", path.name)):
        with path.open(encoding="utf-8") as file:
            for line in file:
                if '"split": "validation"' in line[:60]:  # most lines are long and of training
                    episode = json.loads(line)
                    panels.setdefault(episode["iteration"], {})[episode["task"]] = float(episode["success"])
    if len(panels) < 2:
        raise ValueError("episodes.jsonl holds no panels from before and after training; is validation on?")
    seconds = float(json.loads((folder / "summary.json").read_text(encoding="utf-8"))["seconds"])
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        generated = sum(float(row.get("rollout/generated_tokens") or 0) for row in csv.DictReader(file))
    return Run(cell.objective, cell.seed, dict(sorted(panels.items())), seconds, generated)


# ---------------------------------------------------------------------- all of them


def main(arguments: Sequence[str], fit: Sequence[str] = FIT) -> int:
    """The subcommand → exit status: 0, 1 if cells failed, 130 if it was stopped. Raises ``UserError``."""
    options, rest = parse(arguments)
    cells = plan(options, rest)
    console = Console(highlight=False, soft_wrap=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the running cell ends with us
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        done, failed, stopped = run_all(cells, fit, console)
        if done:
            names = list(dict.fromkeys(cell.objective for cell in cells))
            found = report.lines(done, names)
            command = "python -m sdar_pl compare " + shlex.join(arguments)
            files = report.write(found, report.curves(done, names), options.out, command)
            console.print(report.table(found))
            console.print(*files, sep="\n", markup=False)
            if len(files) < 4:
                console.print("no pictures: pip install 'sdar_pl[compare]', then the same command", markup=False)
    except OSError as error:
        raise UserError(f"--out: cannot write to {options.out}: {error.strerror}; give another folder") from error
    if failed or stopped:
        what = "stopped" if stopped else "failed: " + ", ".join(f"{cell.objective} seed {cell.seed}" for cell in failed)
        counts = f"{len(done)} of {len(cells)} cells are finished"
        console.print(f"{counts}; {what}. The same command goes on.", markup=False)
    return 130 if stopped else int(bool(failed))


def run_all(cells: Sequence[Cell], fit: Sequence[str], console: Console) -> tuple[list[Run], list[Cell], bool]:
    """(finished runs, failed cells, whether Ctrl-C came)."""
    done: list[Run] = []
    failed: list[Cell] = []
    width = max(len(cell.objective) for cell in cells)
    note = TextColumn("{task.fields[note]}", markup=False)
    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(20), MofNCompleteColumn(), note
    live = Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal)
    task = live.add_task("", total=len(cells), note="")

    def tell(line: str) -> None:
        live.update(task, note=line[: max(10, console.width - width - 50)])

    try:
        with live:
            for number, cell in enumerate(cells, 1):
                head = f"{number:>{len(str(len(cells)))}}/{len(cells)} · {cell.objective:<{width}} · seed {cell.seed}"
                live.update(task, description=f"{cell.objective} seed {cell.seed}", note="")
                known = cell.finished()
                if known is None and not console.is_terminal:
                    console.print(f"{head} · started", markup=False)
                result = known or run(cell, fit, tell)
                if isinstance(result, str):
                    failed.append(cell)
                    console.print(f"{head} · FAILED: {result} – see {cell.folder / 'log.txt'}", markup=False)
                else:
                    done.append(result)
                    console.print(f"{head} · {told(result)}{' · kept' if known else ''}", markup=False)
                live.advance(task)
    except KeyboardInterrupt:
        return done, failed, True
    return done, failed, False


def told(run: Run) -> str:
    """A finished run in a few words."""
    panels = [run.panels[number] for number in (min(run.panels), max(run.panels))]
    before, after = (100 * sum(panel.values()) / len(panel) for panel in panels)
    return f"success {before:.1f} → {after:.1f} % · {report.duration(run.seconds)}"
