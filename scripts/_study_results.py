"""What the runs of study_pretrained.py have brought so far, and the same as runs to compare.

results.json holds, beside the steps and the machine: ``tasks``, the panel; ``teacher``, a digit for each of them (1: a
success); ``warmup``, the rows of metrics.csv; and ``runs``, each with its panels by iteration and its metrics.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sdar_pl.reports.comparison import Run
from sdar_pl.runtime.metrics_csv import read_rows


def panels(file: Path) -> dict[int, dict[str, int]]:
    """Iteration → task, without its split → success, of an episodes.jsonl. None of a file that is not there."""
    found: dict[int, dict[str, int]] = {}
    if file.is_file():
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                if '"split": "validation"' in line[:60] and line.endswith("\n"):
                    episode = json.loads(line)
                    task = episode["task"].partition("/")[2]
                    found.setdefault(episode["iteration"], {})[task] = int(episode["success"])
    return found


def metrics(folder: Path) -> dict[str, dict[str, float]]:
    """Iteration → the columns of metrics.csv, without those by turn."""
    file = folder / "metrics.csv"
    rows = read_rows(file) if file.is_file() else {}
    return {
        str(step): {name: float(value) for name, value in row.items() if value and "/turns_" not in name}
        for step, row in sorted(rows.items())
    }


def collect(work: Path) -> dict[str, Any]:
    """All results below a study's folder."""
    teacher = panels(work / "teacher/run/episodes.validate.jsonl")
    runs: list[dict[str, Any]] = []
    played: list[dict[str, int]] = list(teacher.values())
    for cell in sorted(work.glob("*/seed-*/cell.json")):
        found = panels(cell.parent / "run/episodes.jsonl")
        played += found.values()
        seed = int(cell.parent.name.removeprefix("seed-"))
        done = (cell.parent / "done.json").exists()
        of_run = metrics(cell.parent / "run")
        runs.append({**json.loads(cell.read_text()), "seed": seed, "done": done, "panels": found, "metrics": of_run})
    tasks = sorted(set().union(*played)) if played else []
    for run in runs:
        run["panels"] = {
            step: digits(panel, tasks) for step, panel in run["panels"].items() if len(panel) == len(tasks)
        }
    unseen = work / "games/json_2.1.1/valid_unseen"
    split = {task: "valid_unseen" if (unseen / task).exists() else "valid_seen" for task in tasks}
    return {
        "tasks": [f"{split[task]}/{task}" for task in tasks],
        "teacher": next((digits(panel, tasks) for panel in teacher.values() if len(panel) == len(tasks)), ""),
        "warmup": metrics(work / "warmup/run"),
        "runs": runs,
    }


def digits(panel: dict[str, int], tasks: list[str]) -> str:
    return "".join(str(panel[task]) for task in tasks)


def runs_of(results: dict[str, Any], split: str) -> tuple[list[Run], int, list[str]]:
    """Runs on one split up to the latest iteration that some run of every method has played the panel at.

    Args:
        results: what ``collect`` has found.
        split: "valid_seen", "valid_unseen", or "valid" for both.

    Returns the runs, that iteration, and the names of the runs that did not reach it.
    """
    methods: dict[str, int] = {}
    for run in results["runs"]:
        methods[run["objective"]] = max(methods.get(run["objective"], 0), *map(int, run["panels"]), 0)
    last = min(methods.values(), default=0)
    chosen, short = [], []
    for run in results["runs"]:
        if str(last) not in run["panels"] or last == 0:
            short.append(f"{run['objective']} seed {run['seed']}")
            continue
        of_task = {
            int(step): {
                task: float(digit) for task, digit in zip(results["tasks"], row, strict=True) if task.startswith(split)
            }
            for step, row in run["panels"].items()
            if int(step) <= last
        }
        rows = [row for step, row in run["metrics"].items() if int(step) <= last]
        names = "time/rollout_s", "time/score_s", "time/update_s"
        seconds = sum(row.get(name, 0.0) for row in rows for name in names)
        generated = sum(row.get("rollout/generated_tokens", 0.0) for row in rows)
        chosen.append(Run(run["objective"], run["seed"], of_task, seconds, generated))
    return chosen, last, short
