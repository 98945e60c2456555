"""Summary: the change of success over a training, with its interval, and the next commands."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sdar_pl.callbacks.trainer_access import data_of, number_of
from sdar_pl.errors import UserError
from sdar_pl.reports.page import write_page
from sdar_pl.reports.run_files import read_run
from sdar_pl.reports.statistics import Interval, paired_difference
from sdar_pl.runtime.advice import command, quoted
from sdar_pl.runtime.files import replacing
from sdar_pl.runtime.ranks import all_gather
from sdar_pl.runtime.words import shown
from sdar_pl.types import Episode
from sdar_pl.warmup import WarmupModule

#: bytes of episodes.jsonl from which the report takes about half a second; of more, ``report`` makes it
MOST_FOR_REPORT = 8_000_000
#: task id → (kind, success) of one play of the whole panel
Results = dict[str, tuple[str, float]]


class Summary(L.Callback):
    """Compares the first panel of a run with its last, task by task, at the end of ``fit``.

    Prints a table and writes ``report.html`` (of a short run) and ``summary.json`` in the run folder: before and after
    (success as a share), difference, interval (95 %, paired bootstrap over the tasks), n, kinds, iterations and
    seconds. A resumed run keeps its first panel.
    """

    def __init__(self) -> None:
        self.first: tuple[int, Results] | None = None  # (iteration, results)
        self.last: tuple[int, Results] | None = None
        self.seconds = 0.0  # spent before this start
        self.began = time.perf_counter()
        self.played: Results = {}

    def state_dict(self) -> dict[str, Any]:
        return {"first": self.first, "last": self.last, "seconds": self._spent()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.first, self.last, self.seconds = state_dict["first"], state_dict["last"], state_dict["seconds"]

    def _spent(self) -> float:
        return self.seconds + time.perf_counter() - self.began

    # ------------------------------------------------------------------ panels

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.began = time.perf_counter()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.played = {}

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        self.played.update(results_of(outputs))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        panel = number_of(trainer), gathered(self.played)
        self.first, self.last = self.first or panel, panel

    # ------------------------------------------------------------------ the end

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero or self.first is None or self.last is None:
            return
        console = Console(highlight=False, soft_wrap=True)
        compared = compare(self.first[1], self.last[1])
        if compared is not None and self.first[0] < self.last[0]:
            folder = Path(trainer.default_root_dir)
            report = {**compared, "iterations": [self.first[0], self.last[0]], "seconds": round(self._spent(), 1)}
            with replacing(folder / "summary.json") as partial:
                partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
            console.print(table(report))
        write_report(trainer)
        for line in next_steps(trainer):
            console.print(shown(line), markup=False)


def results_of(episodes: Iterable[Episode]) -> Results:
    """Kind and success of each episode, by task."""
    return {episode.task.id: (episode.task.kind, float(episode.success)) for episode in episodes}


def gathered(results: Results) -> Results:
    """The results of all ranks. Collective."""
    return {task: result for part in all_gather(results) for task, result in part.items()}


def compare(before: Results, after: Results) -> dict[str, Any] | None:
    """Two plays of a panel → the figures of ``summary.json``; None if they share no task."""
    tasks = sorted(before.keys() & after.keys())
    if not tasks:
        return None

    def rates(chosen: Sequence[str]) -> dict[str, Any]:
        pair = [sum(results[t][1] for t in chosen) / len(chosen) for results in (before, after)]
        return {"before": pair[0], "after": pair[1], "n": len(chosen)}

    change: Interval = paired_difference([before[t][1] for t in tasks], [after[t][1] for t in tasks])
    kinds = sorted({after[t][0] for t in tasks})
    return {
        **rates(tasks),
        "difference": change.mean,
        "interval": [change.low, change.high],
        "kinds": {kind: rates([t for t in tasks if after[t][0] == kind]) for kind in kinds},
    }


def table(report: dict[str, Any]) -> Table:
    """Success before and after, as a whole and by kind."""
    first, last = report["iterations"]
    low, high = report["interval"]
    result = Table(
        title=f"Success on the panel of {report['n']} tasks, {report['seconds']:.0f} s",
        caption=f"95 % interval of the difference (paired over tasks): {100 * low:+.1f} to {100 * high:+.1f} points",
        title_justify="left",
        caption_justify="left",
    )
    result.add_column("tasks")
    for name in ("n", f"iteration {first}", f"iteration {last}", "points"):
        result.add_column(name, justify="right")
    for name, part in [*report["kinds"].items(), ("all", report)]:
        before, after = 100 * part["before"], 100 * part["after"]
        cells = str(part["n"]), f"{before:.1f} %", f"{after:.1f} %", f"{after - before:+.1f}"
        result.add_row(Text(shown(name, 80)), *cells, style="bold" if part is report else None)
    return result


def write_report(trainer: L.Trainer) -> None:
    """Write the run's ``report.html`` if that takes no more than a moment. A report that fails is a warning."""
    folder = Path(trainer.default_root_dir)
    size = sum(path.stat().st_size for path in folder.glob("episodes*.jsonl"))
    if size > MOST_FOR_REPORT or not (folder / "metrics.csv").exists():
        return
    try:
        decode = data_of(trainer).prompter.tokenizer.decode
        write_page([read_run(folder, 2000)], folder / "report.html", decode, shown(folder.resolve().name, 80))
    except (UserError, OSError) as error:
        warnings.warn(f"no report.html: {error}", stacklevel=2)


def next_steps(trainer: L.Trainer) -> list[str]:
    """Lines with the places of the run's files, and commands to run next."""
    folder = Path(trainer.default_root_dir)
    places = {"metrics": "metrics.csv", "episodes": "episodes.jsonl", "summary": "summary.json", "adapter": "adapter"}
    places["report"] = "report.html"
    lines = [f"{name:<12} {folder / file}" for name, file in places.items() if (folder / file).exists()]
    saver = trainer.checkpoint_callback
    best = getattr(saver, "best_model_path", "")
    if best:
        lines.append(f"{'best policy':<12} {relative(best)}")
    if best and (folder / "config.yaml").exists():  # none where a run was started from Python
        lines += ["", *commands_for(trainer, relative(best))]
    if (folder / "episodes.jsonl").exists() and not (folder / "report.html").exists():
        lines.append(command("report", folder))
    events = any(folder.glob("events.out.tfevents.*"))
    return [*lines, *([quoted("tensorboard", "--logdir", folder)] if events else [])]


def commands_for(trainer: L.Trainer, best: Path) -> list[str]:
    """What to do with the best checkpoint: validate it, or train on from a warm-up."""
    folder = Path(trainer.default_root_dir)
    if not isinstance(trainer.lightning_module, WarmupModule):
        return [command("validate", "--config", folder / "config.yaml", "--ckpt_path", best)]
    model = folder / "model"
    return [
        command("export", "--ckpt_path", best, "--out", model, "--merge"),
        command("fit", "--config", "YOURS.yaml", "--model.policy.model", model),
    ]


def relative(path: str) -> Path:
    """``path`` relative to the working folder where it lies below it."""
    full = Path(path)
    return full.relative_to(Path.cwd()) if full.is_relative_to(Path.cwd()) else full
