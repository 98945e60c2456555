"""The files of a run, read for its report: configuration, metrics, panels, histograms of gap and gate, episodes.

Every file is data of others: lines that cannot be read are left out and counted, texts are made safe to show. Left
out: groups of runs and their figures (report_figures.py), the page (page.py).
"""

from __future__ import annotations

import functools
import json
import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdar_pl.errors import UserError
from sdar_pl.runtime.config_files import read_config
from sdar_pl.runtime.long_work import Done, long_work
from sdar_pl.runtime.metrics_csv import read_rows
from sdar_pl.runtime.words import shown

#: record → inner edges of its bins. Gaps in nats; the middle bin is rounding error. Gates between 0 and 1.
EDGES: dict[str, tuple[float, ...]] = {
    "gap": (-5, -2, -1, -0.5, -0.2, -0.05, -5e-4, 5e-4, 0.05, 0.2, 0.5, 1, 2, 5),
    "gate": (0.1, 0.2, 0.3, 0.4, 0.499, 0.501, 0.6, 0.7, 0.8, 0.9),
}
#: record → iteration → number of tokens in each bin, one more than edges
Histograms = dict[str, dict[int, NDArray[np.int64]]]
#: characters of a text that the page shows
MOST = 20_000


@dataclass
class PageTurn:
    """One turn as the page shows it; a list has one value for each token, None for one that is not finite."""

    text: str
    action: str
    valid: bool
    observation: str
    reward: float | None
    tokens: list[int]
    logprobs: list[float | None]
    advantage: float | None
    gap: list[float | None]  # empty without a teacher
    gate: list[float | None]  # empty without a gate


@dataclass
class PageEpisode:
    """One line of episodes.jsonl as the page shows it (docs/metrics.md has the keys)."""

    iteration: int
    split: str
    task: str
    kind: str
    text: str
    group: int
    index: int
    success: bool
    reward: float | None
    penalty: float | None
    failed: str
    overflow: bool
    context: str
    first: str
    turns: list[PageTurn]


@dataclass
class RunFiles:
    """A run folder, read.

    ``panels``: iteration → task → (kind, success as 0 or 1). ``played``: number of all episodes, ``episodes`` those
    that were kept.
    """

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    rows: dict[int, dict[str, float]] = field(default_factory=dict)  # iteration → column → value
    panels: dict[int, dict[str, tuple[str, float]]] = field(default_factory=dict)
    histograms: Histograms = field(default_factory=lambda: {name: {} for name in EDGES})
    episodes: list[PageEpisode] = field(default_factory=list)
    played: int = 0


def folders_of_runs(named: Path) -> list[Path]:
    """The run folder itself, or the run folders below it (such as those of ``compare``). Raises ``UserError``."""
    if not named.is_dir():
        raise UserError(f"RUN: {named}: there is no such folder; name a folder that fit wrote, such as runs/quickstart")
    if (named / "metrics.csv").is_file():
        return [named]
    below = sorted(path.parent for depth in range(1, 4) for path in named.glob("*/" * depth + "metrics.csv"))
    if not below:
        raise UserError(f"RUN: {named}: it holds no metrics.csv; name a folder that fit wrote and let it log one row")
    return below


def read_run(folder: Path, most: int) -> RunFiles:
    """Read a run folder, with ``most`` episodes at most, spread evenly over all.

    Damaged lines are left out with a warning. Raises ``UserError`` for a file that is something else, or unreadable.
    """
    run = RunFiles(folder)
    try:
        if (folder / "config.yaml").is_file():
            run.config = read_config(str(folder / "config.yaml"))
        run.rows = {step: numbers(row) for step, row in read_rows(folder / "metrics.csv").items()}
        files = sorted(path for path in folder.iterdir() if re.fullmatch(r"episodes(\.rank\d+)?\.jsonl", path.name))
        read_episodes(run, files, most)
    except OSError as error:
        raise UserError(f"RUN: {error.filename or folder}: {error.strerror}; make it readable") from error
    if not run.rows:
        raise UserError(f"RUN: {folder}: its metrics.csv has no row yet; wait for the end of the first panel")
    return run


def numbers(row: dict[str, str]) -> dict[str, float]:
    """The finite values of a row of metrics.csv."""
    values = {}
    for name, cell in row.items():
        try:
            value = float(cell)
        except ValueError:
            continue
        if math.isfinite(value):
            values[name] = value
    return values


# ---------------------------------------------------------------------- episodes


def read_episodes(run: RunFiles, files: list[Path], most: int) -> None:
    """Add panels, histograms and up to ``most`` episodes of ``files`` to ``run``."""
    total = sum(1 for path in files for _ in lines_of(path))
    with long_work(f"reading {run.folder.name}/episodes.jsonl", total) as done:
        for path in files:
            read_file(run, path, most, total, done)


def read_file(run: RunFiles, path: Path, most: int, total: int, done: Done) -> None:
    """``read_episodes`` of one of the files. ``total``: lines of all; ``done`` receives the number of those read."""
    damaged = 0
    for line in lines_of(path):
        try:
            episode = episode_of(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            damaged += 1
            continue
        if episode.split == "validation":
            panel = run.panels.setdefault(episode.iteration, {})
            panel[episode.task] = (episode.kind, float(episode.success))
        count(run.histograms, episode)
        if run.played * most // max(total, 1) > (run.played - 1) * most // max(total, 1) or total <= most:
            run.episodes.append(episode)
        run.played += 1
        done(run.played + damaged)
    if damaged:
        warnings.warn(f"{path}: {damaged} damaged lines are left out", stacklevel=2)


def lines_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def episode_of(line: Any) -> PageEpisode:
    """A parsed line, checked. Raises ``KeyError``, ``TypeError``, ``ValueError`` or ``AttributeError`` if damaged."""
    texts = {name: safe(line[name]) for name in ("split", "task", "kind", "text", "failed", "first")}
    return PageEpisode(
        iteration=int(line["iteration"]),
        group=int(line["group"]),
        index=int(line["index"]),
        success=bool(line["success"]),
        reward=number(line["reward"]),
        penalty=number(line.get("penalty", 0.0)),
        overflow=bool(line["overflow"]),
        context=safe(line.get("context", "")),  # runs of version 0.1.0's first commits have none
        turns=[turn_of(turn) for turn in line["turns"]],
        **texts,
    )


def turn_of(turn: Any) -> PageTurn:
    """A turn, checked: records have one value for each token. Raises as ``episode_of`` does."""
    tokens = [int(token) for token in turn["tokens"]]
    records = [[number(value) for value in turn.get(name, ())] for name in ("logprobs", "gap", "gate")]
    if any(len(record) not in (0, len(tokens)) for record in records):
        raise ValueError("a record has not one value for each token")
    logprobs, gap, gate = records
    return PageTurn(
        safe(turn["text"]),
        safe(turn["action"]),
        bool(turn["valid"]),
        safe(turn["observation"]),
        number(turn["reward"]),
        tokens,
        logprobs,
        number(turn.get("advantage")),
        gap,
        gate,
    )


@functools.lru_cache(maxsize=4096)
def safe(text: Any) -> str:
    """A text of others with its line breaks; control characters and directions of writing are escaped."""
    if not isinstance(text, str):
        raise TypeError(f"{type(text).__name__} is not a text")
    more = f"… [cut here: {len(text):,} characters in all]" if len(text) > MOST else ""
    return "\n".join(shown(line, MOST) for line in text[:MOST].split("\n")) + more


def number(value: Any) -> float | None:
    """A finite number with three decimals, an integer where it is one (shorter in JSON); None for anything else."""
    if value is None or not math.isfinite(value):
        return None
    rounded = round(float(value), 3)
    return int(rounded) if rounded.is_integer() else rounded


def count(histograms: Histograms, episode: PageEpisode) -> None:
    """Add the gaps and gates of an episode to the histograms of its iteration."""
    for name, edges in EDGES.items():
        values = [value for turn in episode.turns for value in getattr(turn, name) if value is not None]
        if values:
            places = np.searchsorted(edges, values, side="right")
            counts = histograms[name].setdefault(episode.iteration, np.zeros(len(edges) + 1, dtype=np.int64))
            counts += np.bincount(places, minlength=len(edges) + 1)
