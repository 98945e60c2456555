"""What the panels of a comparison show beside success: steps, tool calls, evidence found; paired with the first method.

Run: python scripts/panel_figures.py runs/toolcua --calls "fetch "
     python scripts/panel_figures.py runs/rubricem --evidence
     python scripts/panel_figures.py runs/search_qa --kind multi_hop
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from _common import run_script
from numpy.typing import NDArray

from sdar_pl.environments.search_qa import SearchQA
from sdar_pl.errors import UserError
from sdar_pl.reports.statistics import Interval, hierarchical_bootstrap
from sdar_pl.runtime.messages import PlainParser

#: a figure of an episode, from its line of episodes.jsonl
Figure = Callable[[Mapping[str, Any]], float]
#: method → seed → panel (before, after) → task → values of the figures
Panels = dict[str, dict[int, list[dict[str, list[float]]]]]


def figures(calls: str | None, evidence: bool) -> dict[str, tuple[Figure, float]]:
    """Name of each column → the figure, and its factor in the table. Raises ``UserError`` for a bad expression."""
    found: dict[str, tuple[Figure, float]] = {
        "success, %": (lambda line: float(line["success"]), 100.0),
        "steps": (lambda line: float(len(line["turns"])), 1.0),
    }
    if calls is not None:
        try:
            tool = re.compile(calls)
        except re.error as error:
            raise UserError(f"--calls: {calls!r} is no regular expression: {error}") from error
        found["with a call, %"] = lambda line: float(any(tool.match(turn["action"]) for turn in line["turns"])), 100.0
    if evidence:
        world = SearchQA()
        tasks = {task.id: task for task in world.tasks("validation")}

        def recall(line: Mapping[str, Any]) -> float:
            if line["task"] not in tasks:
                raise UserError(f"--evidence: {line['task']} is no question of the fictional encyclopaedia")
            return world.evidence_recall(tasks[line["task"]], "\n".join(t["observation"] for t in line["turns"]))

        found["evidence recall, %"] = recall, 100.0
    return found


def read(folder: Path, chosen: Mapping[str, tuple[Figure, float]], kind: str | None = None) -> Panels:
    """The first and the last panel of every finished run; with ``kind``, its tasks of that kind.

    Raises ``UserError`` for a folder without a comparison, and for a kind that no panel has.
    """
    table = folder / "comparison.csv"
    if not table.is_file():
        raise UserError(f"folder: {folder} has no comparison.csv; name the --out of a comparison")
    with table.open(newline="", encoding="utf-8") as file:
        panels: Panels = {row["objective"]: {} for row in csv.DictReader(file)}
    for path in sorted(folder.glob("*/seed-*/cell.json")):
        cell = json.loads(path.read_text(encoding="utf-8"))
        played: dict[int, dict[str, list[float]]] = defaultdict(dict)
        run = path.parent / "run"  # whose episodes.validate.jsonl is no part of the training
        for log in (*run.glob("episodes.jsonl"), *run.glob("episodes.rank*.jsonl")):
            for line in map(json.loads, log.read_text(encoding="utf-8").splitlines()):
                if line["split"] == "validation" and kind in (None, line["kind"]):
                    values = [figure(line) for figure, _ in chosen.values()]
                    played[line["iteration"]][line["task"]] = values
        if cell["objective"] in panels and played:
            panels[cell["objective"]][cell["seed"]] = [played[min(played)], played[max(played)]]
    if kind is not None and not any(panels.values()):
        raise UserError(f"--kind: no panel of {folder} has tasks of the kind {kind!r}")
    return panels


def matrix(seeds: Mapping[int, list[dict[str, list[float]]]], panel: int, column: int) -> NDArray[np.float64]:
    """A figure of each seed and task, [seeds, tasks]; tasks that every panel has, in the order of their names."""
    tasks = sorted(set.intersection(*(set(played) for panels in seeds.values() for played in panels)))
    return np.array([[seeds[seed][panel][task][column] for task in tasks] for seed in sorted(seeds)])


def written(interval: Interval, factor: float, sign: str = "") -> str:
    mean, low, high = (factor * value for value in interval)
    digits = 1 if factor > 1 else 2
    return f"{mean:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def table(panels: Panels, chosen: Mapping[str, tuple[Figure, float]]) -> str:
    """Markdown: before training, after it, and the difference to the first method over the seeds of both."""
    methods = [name for name in panels if panels[name]]
    if not methods:
        raise UserError("folder: no run of the comparison is finished")
    rows = [["objective", "", "seeds", *chosen], ["---", "---", *["--:"] * (len(chosen) + 1)]]
    first = panels[methods[0]]
    for name in methods:
        own = panels[name]
        for panel, word in enumerate(("before", "after")):
            cells = [
                written(hierarchical_bootstrap(matrix(own, panel, column)), factor)
                for column, (_, factor) in enumerate(chosen.values())
            ]
            rows.append([name, word, str(len(own)), *cells])
        shared = sorted(own.keys() & first.keys())
        if name == methods[0] or not shared:
            continue
        pairs = [{seed: part[seed] for seed in shared} for part in (own, first)]
        cells = [
            written(hierarchical_bootstrap(matrix(pairs[0], 1, k) - matrix(pairs[1], 1, k)), factor, "+")
            for k, (_, factor) in enumerate(chosen.values())
        ]
        rows.append([name, f"− {methods[0]}", str(len(shared)), *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = PlainParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the --out of a comparison")
    parser.add_argument("--calls", help="regular expression of the actions that call a tool, from their beginning")
    parser.add_argument("--evidence", action="store_true", help="of the fictional encyclopaedia's questions")
    parser.add_argument("--kind", help="only tasks of this kind")
    args = parser.parse_args()
    chosen = figures(args.calls, args.evidence)
    print(table(read(args.folder, chosen, args.kind), chosen))


if __name__ == "__main__":
    run_script(main)
