"""The figures of a report: runs grouped by method, curves with intervals, histograms, kinds, time, settings.

Runs whose configurations are equal but for seed and place are one group, the seeds of a method. Everything is plain
data for JSON. Left out: reading files (run_files.py), the page (page.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdar_pl.reports.run_files import EDGES, RunFiles
from sdar_pl.reports.statistics import Interval, hierarchical_bootstrap, wilson
from sdar_pl.runtime.words import shown

#: settings that say where and how often a run was made, not what it is
PLACE = ("seed_everything", "trainer.default_root_dir", "run", "ckpt_path")
#: heading → (title of the chart, unit, columns of metrics.csv; the second and third are dashed)
CHARTS: dict[str, list[tuple[str, str, tuple[str, ...]]]] = {
    "Success": [
        ("Success on the panel", "share", ("val/success", "val/teacher_success")),
        ("Success of training episodes", "share", ("train/success",)),
    ],
    "Gap and gate": [
        ("Tokens that the teacher rejects: negative gap", "share", ("gap/negative_fraction",)),
        ("Tokens that the teacher endorses: gate above ½", "share", ("gate/active",)),
        ("Mean gap Δ", "nats", ("gap/mean",)),
        ("Mean gate g", "", ("gate/mean",)),
    ],
    "Policy": [
        ("Entropy", "nats", ("policy/entropy",)),
        ("KL(policy ‖ reference)", "nats", ("loss/reference_kl",)),
        ("Turns of a training episode", "turns", ("episode/turns",)),
        ("Turns that kept to the format", "share", ("train/valid_action",)),
    ],
    "Time and memory": [
        ("Generated tokens a second", "1/s", ("rollout/tokens_per_s",)),
        ("Peak memory of rollout and scoring", "GiB", ("memory/rollout_gib",)),
        ("Peak memory of the update", "GiB", ("memory/update_gib",)),
    ],
}
PHASES = ("rollout", "score", "update")


@dataclass
class Group:
    """The runs of one method: places in the list of all runs."""

    name: str
    runs: list[int]


def figures(runs: Sequence[RunFiles]) -> dict[str, Any]:
    """All figures of the page but the episodes."""
    groups = groups_of(runs)
    members = [[runs[place] for place in group.runs] for group in groups]
    return {
        "runs": [
            {"folder": shown(run.folder), "name": name_of_run(place, runs, groups), "seed": seed_of(run)}
            for place, run in enumerate(runs)
        ],
        "groups": [
            {"name": group.name, "runs": group.runs, **outcome(of)} for group, of in zip(groups, members, strict=True)
        ],
        "charts": [chart for heading in CHARTS for chart in charts(heading, members)],
        "histograms": [
            {"group": place, "record": record, "edges": EDGES[record], **pooled}
            for record in EDGES
            for place, of in enumerate(members)
            if (pooled := histogram(of, record))
        ],
        "kinds": kinds(members),
        "phases": [phases(of) for of in members],
        "settings": differences([of[0].config for of in members]),
    }


# ---------------------------------------------------------------------- groups


def groups_of(runs: Sequence[RunFiles]) -> list[Group]:
    """Runs by equal settings, in the order of their first run; a run without config.yaml is alone."""
    places: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        settings = {key: value for key, value in flat(run.config).items() if key not in PLACE}
        key = json.dumps(settings, sort_keys=True, default=str) if settings else f"{place}"
        places.setdefault(key, []).append(place)
    groups = [Group(name_of([runs[place] for place in of], runs), of) for of in places.values()]
    for number, group in enumerate(groups):
        if any(other.name == group.name for other in groups[:number]):
            group.name += f" ({number + 1})"
    return groups


def name_of(group: Sequence[RunFiles], runs: Sequence[RunFiles]) -> str:
    """The part of its folders that tells a group apart from the others, else the class of its objective."""
    parts = [set(run.folder.resolve().parts) for run in group]
    everywhere = set.intersection(*(set(run.folder.resolve().parts) for run in runs))
    own = [part for part in group[0].folder.resolve().parts if part in set.intersection(*parts) - everywhere]
    if own and len(group) < len(runs):
        return shown("/".join(own), 80)
    objective = group[0].config.get("model", {}).get("objective", {})
    path = objective.get("class_path") if isinstance(objective, dict) else objective
    return shown(path, 200).rpartition(".")[2] if path else shown(group[0].folder.name, 80)


def name_of_run(place: int, runs: Sequence[RunFiles], groups: Sequence[Group]) -> str:
    """The name of a run's group and, of several seeds, its seed."""
    (group,) = (group for group in groups if place in group.runs)
    return f"{group.name} · seed {seed_of(runs[place])}" if len(group.runs) > 1 else group.name


def seed_of(run: RunFiles) -> str:
    return shown(run.config.get("seed_everything", "?"), 40)


def flat(content: Any, key: str = "") -> dict[str, Any]:
    """The settings of a configuration by their full keys, without ``init_args``."""
    if not isinstance(content, Mapping) or not content:
        return {key.replace(".init_args", ""): content} if key else {}
    return {
        name: value
        for part, inner in content.items()
        for name, value in flat(inner, f"{key}.{part}" if key else str(part)).items()
    }


def differences(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The settings in which groups differ, each with its text for every group; None where one has no such key."""
    all_flat = [flat(config) for config in configs]
    keys = list(dict.fromkeys(key for settings in all_flat for key in settings if key not in PLACE))
    rows = [
        {"key": shown(key, 200), "values": [shown(of[key], 200) if key in of else None for of in all_flat]}
        for key in keys
    ]
    return [row for row in rows if len(set(row["values"])) > 1]


# ---------------------------------------------------------------------- curves


def charts(heading: str, members: Sequence[Sequence[RunFiles]]) -> Iterator[dict[str, Any]]:
    """The charts of a heading that have data; a point is [iteration, mean, low, high]."""
    for title, unit, columns in CHARTS[heading]:
        series = [
            {"group": place, "column": column, "dashed": column != columns[0], "points": points}
            for place, of in enumerate(members)
            for column in columns
            if (points := curve(of, column))
        ]
        if series:
            yield {"heading": heading, "title": title, "unit": unit, "series": series}


def curve(runs: Sequence[RunFiles], column: str) -> list[list[float]]:
    """Points of a column at the iterations that all ``runs`` have.

    ``val/success`` has its 95 % interval over seeds and tasks, every other column the lowest and highest of the seeds.
    """
    steps = set.intersection(*({step for step, row in run.rows.items() if column in row} for run in runs))
    points = []
    for step in sorted(steps):
        interval = panel_interval(runs, step) if column == "val/success" else None
        values = [run.rows[step][column] for run in runs]
        mean, low, high = interval or (float(np.mean(values)), min(values), max(values))
        points.append([step, *(round(value, 6) for value in (mean, low, high))])
    return points


def panel_interval(runs: Sequence[RunFiles], step: int, kind: str | None = None) -> Interval | None:
    """Success of a panel: over seeds and tasks (``hierarchical_bootstrap``), of one run over tasks (``wilson``).

    None where the runs share no task (of ``kind``), such as without episodes.jsonl.
    """
    panels = [run.panels.get(step, {}) for run in runs]
    shared = set.intersection(*(set(panel) for panel in panels))
    tasks = sorted(task for task in shared if kind is None or panels[0][task][0] == kind)
    if not tasks:
        return None
    if len(runs) == 1:
        return wilson(sum(panels[0][task][1] for task in tasks), len(tasks))
    return hierarchical_bootstrap([[panel[task][1] for task in tasks] for panel in panels], resamples=2_000)


def panel_steps(runs: Sequence[RunFiles]) -> list[int]:
    """The iterations at which all ``runs`` have a panel."""
    return sorted(set.intersection(*(set(run.panels) for run in runs)))


def outcome(runs: Sequence[RunFiles]) -> dict[str, Any]:
    """A group's first and last panel with intervals, iterations, seconds and generated tokens, as the mean of a run."""
    steps = panel_steps(runs)
    rows = [row for run in runs for row in run.rows.values()]
    seconds = sum(row.get(f"time/{phase}_s", 0.0) for row in rows for phase in PHASES)
    return {
        "iterations": max(step for run in runs for step in run.rows),
        "before": panel_interval(runs, steps[0]) if steps else None,
        "after": panel_interval(runs, steps[-1]) if len(steps) > 1 else None,
        "seconds": round(seconds / len(runs), 1),
        "tokens": round(sum(row.get("rollout/generated_tokens", 0.0) for row in rows) / len(runs)),
    }


# ---------------------------------------------------------------------- parts


def kinds(members: Sequence[Sequence[RunFiles]]) -> list[dict[str, Any]]:
    """Success by kind of task: for each group [before, after] with intervals on its first and last panel, or None."""
    panels = [panel for runs in members for run in runs for panel in run.panels.values()]
    names = sorted({kind for panel in panels for kind, _ in panel.values()})
    rows = []
    for kind in names:
        pairs: list[list[Interval | None] | None] = []
        for runs in members:
            steps = panel_steps(runs)
            ends = [panel_interval(runs, step, kind) for step in (steps[0], steps[-1])] if steps else []
            pairs.append(ends if any(ends) else None)
        rows.append({"kind": shown(kind, 80), "groups": pairs})
    return rows


def histogram(runs: Sequence[RunFiles], record: str) -> dict[str, Any]:
    """Shares of the tokens in each bin at every iteration, all seeds together; empty without the record."""
    steps = sorted({step for run in runs for step in run.histograms[record]})
    if not steps:
        return {}
    counts = [sum(of[step] for run in runs if step in (of := run.histograms[record])) for step in steps]
    shares = [[round(float(share), 5) for share in count / count.sum()] for count in map(np.asarray, counts)]
    return {"steps": steps, "shares": shares}


def phases(runs: Sequence[RunFiles]) -> dict[str, float]:
    """Seconds of each phase of an iteration, mean over iterations and seeds, as far as logged."""
    means = {}
    for phase in PHASES:
        values = [row[name] for run in runs for row in run.rows.values() if (name := f"time/{phase}_s") in row]
        if values:
            means[phase] = round(float(np.mean(values)), 3)
    return means
