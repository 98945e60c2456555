"""A comparison as a table for the terminal, CSV, Markdown and a figure of learning curves."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from rich.box import HORIZONTALS
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sdar_pl.reports.comparison import LearningCurves, MethodSummary, Run, learning_curves, summarise
from sdar_pl.reports.statistics import Interval
from sdar_pl.runtime.files import replacing
from sdar_pl.runtime.words import duration, markdown_cell, shown

#: distinguishable with any colour vision (Okabe and Ito)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv*P"
DASHES = ("-", "--", ":")
CAPTION = (
    "Success in per cent on the panel, mean over seeds and tasks [95 % interval by hierarchical bootstrap over both]. "
    "Difference: paired by seed and task, in points; its interval is that of one comparison. Time and generated tokens "
    "(of training): mean of a run."
)
HOLM = "p: of the difference, by the same bootstrap, two-sided, corrected by Holm for {} comparisons with {}."
ONE_COMPARISON = "p: of the difference, by the same bootstrap, two-sided."
ONE_SEED = "† One seed: the interval holds the choice of the tasks and not that of the seed."


def report(runs: Sequence[Run], names: Sequence[str], folder: Path, command: str, console: Console) -> None:
    """Print the table, write the files into ``folder`` and print their paths. Raises ``OSError``, ``UserError``."""
    summaries = summarise(runs, names)
    files = write_files(summaries, learning_curves(runs, names), folder, command)
    console.print(table(summaries))
    console.print(*files, sep="\n", markup=False)
    if len(files) < 4:
        console.print("no figure: pip install 'sdar_pl[compare]', then the same command", markup=False)


def write_files(summaries: Sequence[MethodSummary], curves: LearningCurves, folder: Path, command: str) -> list[Path]:
    """comparison.csv, comparison.md, curves.png and curves.svg → the files; no figure without matplotlib."""
    files = [folder / "comparison.csv", folder / "comparison.md"]
    figures = [folder / "curves.png", folder / "curves.svg"]
    drawn = draw_curves(curves, figures)
    write_csv(summaries, files[0])
    with replacing(files[1]) as partial:
        partial.write_text(markdown(summaries, command, "curves.svg" if drawn else None), encoding="utf-8")
    return [*files, *(figures if drawn else [])]


# ---------------------------------------------------------------------- numbers as text


def percent(value: Interval) -> str:
    return f"{100 * value.mean:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"


def points(value: Interval | None) -> str:
    """A difference in percentage points, with its sign."""
    return "–" if value is None else f"{100 * value.mean:+.1f} [{100 * value.low:+.1f}, {100 * value.high:+.1f}]"


def chance(p: float | None) -> str:
    """A p-value."""
    return "–" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def seeds(number: int) -> str:
    """A number of seeds; one is marked."""
    return "1 †" if number == 1 else str(number)


def in_brief(run: Run) -> str:
    """A finished run in one line: success on the first and the last panel, time."""
    panels = [run.panels[min(run.panels)], run.panels[max(run.panels)]]
    before, after = (100 * sum(panel.values()) / len(panel) for panel in panels)
    return f"success {before:.1f} → {after:.1f} % · {duration(run.seconds)}"


# ---------------------------------------------------------------------- tables


def columns(summaries: Sequence[MethodSummary]) -> tuple[str, ...]:
    return "objective", "seeds", "before", "after", f"difference to {summaries[0].objective}", "p", "time", "tokens"


def row(summary: MethodSummary) -> tuple[str, ...]:
    """The text of a method's cells, as in ``columns``. One seed is marked; so is a difference over fewer seeds."""
    difference = points(summary.difference)
    if summary.difference is not None and summary.paired_seeds < summary.seeds:
        difference += f" of {seeds(summary.paired_seeds)} seed" + "s" * (summary.paired_seeds > 1)
    figures = percent(summary.before), percent(summary.after), difference, chance(summary.p_holm)
    return summary.objective, seeds(summary.seeds), *figures, duration(summary.seconds), f"{summary.generated:,.0f}"


def caption(summaries: Sequence[MethodSummary]) -> str:
    """What the figures are: interval, p and its correction, and the mark of one seed where it stands."""
    comparisons = sum(summary.p is not None for summary in summaries)
    parts = [CAPTION]
    if comparisons:
        parts.append(ONE_COMPARISON if comparisons == 1 else HOLM.format(comparisons, summaries[0].objective))
    if any(1 in (summary.seeds, summary.paired_seeds) for summary in summaries):
        parts.append(ONE_SEED)
    return " ".join(parts)


def title(summaries: Sequence[MethodSummary]) -> str:
    counts = sorted({summary.iterations for summary in summaries})
    iterations = " to ".join(map(str, counts if len(counts) == 1 else (counts[0], counts[-1])))
    return f"Success on a panel of {summaries[0].tasks} tasks, {iterations} iterations"


def table(summaries: Sequence[MethodSummary]) -> Table:
    """The table for a terminal: fits 80 columns, where method names take the room that the figures leave."""
    result = Table(title=title(summaries), caption=caption(summaries), show_lines=True)
    result.title_justify = result.caption_justify = "left"
    result.box, result.collapse_padding, result.pad_edge = HORIZONTALS, True, False
    place = columns(summaries).index("p")  # stands below the difference
    for number, column in enumerate(columns(summaries)):
        if number == place:
            continue
        short = "difference\nto first" if column.startswith("difference") else column
        result.add_column(short, justify="right" if number else "left", overflow="fold", no_wrap=number > 0)
    for summary in summaries:
        name, *figures = row(summary)
        p = figures.pop(place - 1)
        if summary.p_holm is not None:
            figures[place - 2] += f"\np {p}"
        # each part of a name and each interval on a line of its own
        lines_of_name = shown(name).replace("+", "\n+").replace("(", "\n(").replace(",", ",\n")
        result.add_row(Text(lines_of_name), *(re.sub(r" (?=\[|of )", "\n", text) for text in figures))
    return result


def markdown(summaries: Sequence[MethodSummary], command: str, figure: str | None) -> str:
    """The table as Markdown, with the command that made it and the path of the figure."""
    heads = columns(summaries)
    rows = [heads, ["---", *["--:"] * (len(heads) - 1)], *map(row, summaries)]
    lines = [f"| {' | '.join(map(markdown_cell, row))} |" for row in rows]
    parts = [f"# {title(summaries)}", f"    {shown(command)}", "\n".join(lines), caption(summaries)]
    return "\n\n".join([*parts, *([f"![learning curves]({figure})"] if figure else [])]) + "\n"


def write_csv(summaries: Sequence[MethodSummary], path: Path) -> None:
    """Shares between 0 and 1, seconds and tokens as plain numbers, p-values of one comparison and corrected."""
    names = ("before", "after", "difference")
    heads = [head for name in names for head in (name, f"{name}_low", f"{name}_high")]
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        heads += ["seconds", "generated_tokens", "difference_seeds", "p", "p_holm"]
        writer.writerow(["objective", "seeds", "tasks", "iterations", *heads])
        for summary in summaries:
            intervals: list[Interval | None] = [getattr(summary, name) for name in names]
            shares = [text for value in intervals for text in ([f"{x:.6f}" for x in value] if value else [""] * 3)]
            counts = [summary.objective, summary.seeds, summary.tasks, summary.iterations]
            test = [summary.paired_seeds or "", *("" if p is None else f"{p:.6f}" for p in (summary.p, summary.p_holm))]
            writer.writerow([*counts, *shares, round(summary.seconds, 1), round(summary.generated), *test])


# ---------------------------------------------------------------------- the figure


def draw_curves(curves: LearningCurves, paths: Sequence[Path]) -> bool:
    """Learning curves with 95 % bands, one file per path → whether matplotlib is there to draw them."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        return False
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, curve) in enumerate(curves.items()):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        iterations, values = list(curve), list(curve.values())
        means = [100 * value.mean for value in values]
        dashes = DASHES[number // len(COLOURS) % len(DASHES)]  # tells methods of the same colour apart
        axes.plot(iterations, means, dashes, color=colour, marker=marker, markersize=4, label=name)
        lows, highs = [100 * value.low for value in values], [100 * value.high for value in values]
        axes.fill_between(iterations, lows, highs, color=colour, alpha=min(0.15, 0.5 / len(curves)), linewidth=0)
    axes.set(xlabel="iteration", ylabel="success on the panel (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    figure.legend(frameon=False, loc="outside right upper")
    for path in paths:
        with replacing(path) as partial:
            figure.savefig(partial, dpi=160, format=path.suffix[1:])
    return True
