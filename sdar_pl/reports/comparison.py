"""What a comparison found: figures from finished runs, as a table for the terminal, CSV, Markdown and learning curves.

Every figure is over the runs of a method (seeds) and the tasks of the panel that all runs share. Left out: running
anything (compare.py) and the statistics themselves (evaluation.py).
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.box import HORIZONTALS
from rich.table import Table

from sdar_pl.errors import UserError
from sdar_pl.reports.statistics import Interval, hierarchical_bootstrap

#: told apart by people with any colour vision (Okabe and Ito)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv*P"
DASHES = ("-", "--", ":")
METHOD = (
    "Success in per cent on the panel, mean over seeds and tasks [95 % interval by hierarchical bootstrap over both]. "
    "Difference: paired by seed and task, in points. Time and generated tokens (of training): mean of a run."
)


@dataclass
class Run:
    """One finished run. ``panels``: iteration → task → success as 0 or 1."""

    objective: str
    seed: int
    panels: dict[int, dict[str, float]]
    seconds: float
    generated: float


@dataclass
class Line:
    """A method's figures. ``difference`` to the first method is over the seeds that both have; None for the first."""

    objective: str
    seeds: int
    tasks: int
    iterations: int
    before: Interval
    after: Interval
    difference: Interval | None
    seconds: float
    generated: float


# ---------------------------------------------------------------------- figures


def shared_tasks(runs: Sequence[Run]) -> list[str]:
    """The tasks of every panel of every run. Raises ``UserError`` if there is none."""
    tasks = set.intersection(*(set(panel) for run in runs for panel in run.panels.values()))
    if not tasks:
        raise UserError("compare: the runs share no task of their panels; compare objectives on one environment")
    return sorted(tasks)


def matrix(runs: Sequence[Run], tasks: Sequence[str], iteration: int) -> NDArray[np.float64]:
    """Successes [seeds, tasks] at an iteration (-1: each run's last, 0: its first)."""
    numbers = [{0: min(run.panels), -1: max(run.panels)}.get(iteration, iteration) for run in runs]
    return np.array([[run.panels[n][task] for task in tasks] for run, n in zip(runs, numbers, strict=True)])


def by_objective(runs: Sequence[Run], names: Sequence[str]) -> dict[str, dict[int, Run]]:
    """Method → seed → run, in the order of ``names``; methods without a run are left out."""
    sorted_runs = {name: {run.seed: run for run in runs if run.objective == name} for name in names}
    return {name: of_seed for name, of_seed in sorted_runs.items() if of_seed}


def lines(runs: Sequence[Run], names: Sequence[str]) -> list[Line]:
    """The table's lines; differences are to the first of ``names``."""
    tasks, methods = shared_tasks(runs), by_objective(runs, names)
    first = methods.get(names[0], {})
    result = []
    for name, of_seed in methods.items():
        mine = list(of_seed.values())
        both = [] if name == names[0] else sorted(of_seed.keys() & first.keys())
        difference = None
        if both:
            pair = [matrix([method[seed] for seed in both], tasks, -1) for method in (of_seed, first)]
            difference = hierarchical_bootstrap(pair[0] - pair[1])
        result.append(
            Line(
                name,
                len(mine),
                len(tasks),
                max(max(run.panels) for run in mine),
                hierarchical_bootstrap(matrix(mine, tasks, 0)),
                hierarchical_bootstrap(matrix(mine, tasks, -1)),
                difference,
                float(np.mean([run.seconds for run in mine])),
                float(np.mean([run.generated for run in mine])),
            )
        )
    return result


def curves(runs: Sequence[Run], names: Sequence[str]) -> dict[str, dict[int, Interval]]:
    """Method → iteration → success, at the iterations that all of a method's runs validated."""
    tasks = shared_tasks(runs)
    return {
        name: {
            number: hierarchical_bootstrap(matrix(list(of_seed.values()), tasks, number))
            for number in sorted(set.intersection(*(set(run.panels) for run in of_seed.values())))
        }
        for name, of_seed in by_objective(runs, names).items()
    }


# ---------------------------------------------------------------------- words


def share(value: Interval) -> str:
    return f"{100 * value.mean:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"


def points(value: Interval | None) -> str:
    return "–" if value is None else f"{100 * value.mean:+.1f} [{100 * value.low:+.1f}, {100 * value.high:+.1f}]"


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def cells(line: Line) -> tuple[str, ...]:
    shown = share(line.before), share(line.after), points(line.difference)
    return line.objective, str(line.seeds), *shown, duration(line.seconds), f"{line.generated:,.0f}"


def heads(found: Sequence[Line]) -> tuple[str, ...]:
    return "objective", "seeds", "before", "after", f"difference to {found[0].objective}", "time", "tokens"


def title(found: Sequence[Line]) -> str:
    counts = sorted({line.iterations for line in found})
    iterations = " to ".join(map(str, counts if len(counts) == 1 else (counts[0], counts[-1])))
    return f"Success on a panel of {found[0].tasks} tasks, {iterations} iterations"


def table(found: Sequence[Line]) -> Table:
    """For the terminal: fits 80 columns, where names take what the figures leave."""
    result = Table(title=title(found), caption=METHOD, title_justify="left", caption_justify="left", show_lines=True)
    result.box, result.collapse_padding, result.pad_edge = HORIZONTALS, True, False
    for number, head in enumerate(heads(found)):
        short = "difference\nto first" if head.startswith("difference") else head
        result.add_column(short, justify="right" if number else "left", overflow="fold", no_wrap=number > 0)
    for line in found:
        name, *figures = cells(line)
        # each part of a name and each interval on a line of its own
        result.add_row(name.replace("+", "\n+"), *(text.replace(" [", "\n[") for text in figures))
    return result


def markdown(found: Sequence[Line], command: str, picture: str | None) -> str:
    """The same with the command that made it."""
    rows = [heads(found), ["---", *["--:"] * (len(heads(found)) - 1)], *map(cells, found)]
    parts = [f"# {title(found)}", f"    {command}", "\n".join(f"| {' | '.join(row)} |" for row in rows), METHOD]
    return "\n\n".join([*parts, *([f"![learning curves]({picture})"] if picture else [])]) + "\n"


def write_csv(found: Sequence[Line], path: Path) -> None:
    """Shares between 0 and 1, seconds and tokens as plain numbers."""
    names = ("before", "after", "difference")
    heads = [head for name in names for head in (name, f"{name}_low", f"{name}_high")]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["objective", "seeds", "tasks", "iterations", *heads, "seconds", "generated_tokens"])
        for line in found:
            values: list[Interval | None] = [getattr(line, name) for name in names]
            numbers = [text for value in values for text in ([f"{x:.6f}" for x in value] if value else [""] * 3)]
            counts = [line.objective, line.seeds, line.tasks, line.iterations]
            writer.writerow([*counts, *numbers, round(line.seconds, 1), round(line.generated)])


def draw(found: dict[str, dict[int, Interval]], paths: Sequence[Path]) -> bool:
    """Learning curves with bands; False where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        return False
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, curve) in enumerate(found.items()):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        iterations, values = list(curve), list(curve.values())
        means = [100 * v.mean for v in values]
        dashes = DASHES[number // len(COLOURS) % len(DASHES)]  # a colour that comes again is drawn otherwise
        axes.plot(iterations, means, dashes, color=colour, marker=marker, markersize=4, label=name)
        lows, highs = [100 * v.low for v in values], [100 * v.high for v in values]
        axes.fill_between(iterations, lows, highs, color=colour, alpha=min(0.15, 0.5 / len(found)), linewidth=0)
    axes.set(xlabel="iteration", ylabel="success on the panel (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    figure.legend(frameon=False, loc="outside right upper")
    for path in paths:
        figure.savefig(path, dpi=160)
    return True


def write(found: Sequence[Line], drawn: dict[str, dict[int, Interval]], folder: Path, command: str) -> list[Path]:
    """comparison.csv, comparison.md, curves.png and curves.svg → the files; no pictures without matplotlib."""
    files = [folder / "comparison.csv", folder / "comparison.md"]
    pictures = [folder / "curves.png", folder / "curves.svg"]
    has_pictures = draw(drawn, pictures)
    write_csv(found, files[0])
    partial = files[1].with_suffix(".partial")
    partial.write_text(markdown(found, command, "curves.svg" if has_pictures else None), encoding="utf-8")
    os.replace(partial, files[1])
    return [*files, *(pictures if has_pictures else [])]
