"""The section "A pretrained model" of docs/results.md, from the results.json of study_pretrained.py.

Run: python scripts/study_report.py results/results.json [--figure docs/results/pretrained.svg] [--csv FOLDER]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _common import in_words, run_script
from _study_results import runs_of

from sdar_pl.errors import UserError
from sdar_pl.reports.comparison import Run, learning_curves, summarise
from sdar_pl.reports.comparison_files import caption, columns, draw_curves, percent, row, write_csv
from sdar_pl.reports.statistics import wilson
from sdar_pl.runtime.messages import PlainParser
from sdar_pl.runtime.words import markdown_cell

SPLITS = {"valid_seen": "rooms like those of training", "valid_unseen": "rooms that training has not"}


def lines_of(rows: Sequence[Sequence[str]]) -> str:
    """Rows, the first one of them the heads, as a table in Markdown."""
    whole = [rows[0], ["---", *["--:"] * (len(rows[0]) - 1)], *rows[1:]]
    return "\n".join(f"| {' | '.join(map(markdown_cell, cells))} |" for cells in whole)


def names_of(results: dict[str, Any]) -> list[str]:
    """The methods, GRPO first."""
    names = dict.fromkeys(run["objective"] for run in results["runs"])
    return sorted(names, key=lambda name: name != "grpo")


def teacher(results: dict[str, Any], split: str) -> str:
    """The teacher's success on a split, with its interval."""
    played = [
        digit == "1"
        for task, digit in zip(results["tasks"], results["teacher"], strict=False)
        if task.startswith(f"{split}/")
    ]
    return percent(wilson(sum(played), len(played))) if played else "–"


def warm_up(results: dict[str, Any]) -> str:
    """How the warm-up went: cross-entropy and the student's success by iteration."""
    head = ["iteration", "cross-entropy of responses", "student on valid_seen"]
    rows = [
        [step, f"{line['loss/response']:.3f}" if "loss/response" in line else "–", f"{100 * line['val/success']:.1f}"]
        for step, line in results["warmup"].items()
        if "val/success" in line
    ]
    return lines_of([head, *rows]) if rows else "No panel was played while it was warmed up."


def curve(runs: Sequence[Run], names: Sequence[str]) -> str:
    """Success by iteration, a line for each method."""
    curves = learning_curves(runs, names)
    steps = sorted(set.intersection(*(set(of_method) for of_method in curves.values())))
    rows = [[name, *(f"{100 * of_method[step].mean:.1f}" for step in steps)] for name, of_method in curves.items()]
    return lines_of([["iteration", *map(str, steps)], *rows])


def times(results: dict[str, Any]) -> str:
    """How long the steps took, and how each of them ended."""
    ended = {0: "finished", -1: "not begun", 124: "stopped by the budget", 143: "stopped by the budget"}
    rows = [
        [name, f"{step['seconds']:.0f} s", ended.get(step["status"]) or f"failed: {step['last_line']}"]
        for name, step in results["steps"].items()
        if "seconds" in step
    ]
    return lines_of([["step", "time", "end"], *rows])


def section(results: dict[str, Any]) -> str:
    """The whole section; without the comparison where no run has played the panel after training."""
    names, parts = names_of(results), ["## A pretrained model"]
    parts += ["How the warm-up went:", warm_up(results)]
    for split, what in SPLITS.items():
        runs, last, short = runs_of(results, split)
        tasks = f"{split}, {sum(task.startswith(split) for task in results['tasks'])} games in {what}"
        parts.append(
            f"**{tasks}, after {last} iterations.** The teacher, before training: {teacher(results, split)} %."
        )
        if runs:
            summaries = summarise(runs, names)
            parts += [lines_of([columns(summaries), *map(row, summaries)]), curve(runs, names), caption(summaries)]
        if short:
            parts.append(f"Not in the table, as they did not come so far: {', '.join(short)}.")
    arguments = " ".join(results["arguments"])
    parts += [f"    python scripts/study_pretrained.py {arguments}", f"Measured on: {in_words(results['machine'])}."]
    return "\n\n".join([*parts, times(results)]) + "\n"


def main() -> None:
    parser = PlainParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results.json")
    parser.add_argument("--figure", type=Path, help="an SVG of success on all games by iteration")
    parser.add_argument("--csv", type=Path, help="folder of pretrained_seen.csv and pretrained_unseen.csv")
    args = parser.parse_args()
    try:
        results = json.loads(args.results.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"results: {args.results}: {error}; name a results.json of study_pretrained.py") from error
    print(section(results))
    names = names_of(results)
    if (args.figure or args.csv) and not runs_of(results, "valid")[0]:
        raise UserError(f"results: {args.results}: no run has played the panel after training; there is no figure")
    if args.figure:
        draw_curves(learning_curves(runs_of(results, "valid")[0], names), [args.figure])
    if args.csv:
        for split in SPLITS:
            file = args.csv / f"pretrained_{split.removeprefix('valid_')}.csv"
            write_csv(summarise(runs_of(results, split)[0], names), file)


if __name__ == "__main__":
    run_script(main)
