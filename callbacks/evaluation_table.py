"""EvaluationTable: the success of ``validate`` and ``test`` with intervals, in total and for each kind of task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sdar_pl.callbacks.summary import Results, gathered
from sdar_pl.callbacks.trainer_access import data_of
from sdar_pl.reports.statistics import wilson
from sdar_pl.runtime.files import replacing
from sdar_pl.runtime.words import shown

#: figures kept of each episode; score only where the environment has one
FIGURES = ("success", "reward", "turns", "failed", "score")


class EvaluationTable(L.Callback):
    """Prints success by kind with its 95 % interval (Wilson) at the end of ``validate`` and ``test``.

    Writes the same figures to ``validate.json`` or ``test.json`` in the run folder: split, checkpoint, context (whether
    the student was shown the privileged context), temperature, success (share), interval, n, kinds (these three for
    each), reward and turns (means), failed, and the mean score where the environment has one. An episode that failed
    counts as no success, so that n is the whole panel; ``failed`` is the number of these episodes. In ``fit`` the
    callback does nothing.
    """

    def __init__(self) -> None:
        self.played = fresh()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.played = fresh()

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        for episode in outputs:
            values = (episode.success, episode.reward, len(episode.turns), bool(episode.failed), episode.score)
            for name, value in zip(FIGURES, values, strict=True):
                if value is not None:
                    self.played[name][episode.task.id] = (episode.task.kind, float(value))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn not in ("validate", "test"):
            return
        stage = str(trainer.state.fn.value)
        played = {name: gathered(results) for name, results in self.played.items()}
        number = len(played["success"])
        if not trainer.is_global_zero or not number:
            return
        data = data_of(trainer)
        sums = {name: sum(value for _, value in results.values()) for name, results in played.items()}
        report = {
            "split": data.splits[stage],
            "checkpoint": None if trainer.ckpt_path is None else str(trainer.ckpt_path),
            "context": data.evaluate_with_context,
            "temperature": data.evaluation_sampling.temperature,
            **rates(played["success"], played["score"]),
            "reward": sums["reward"] / number,
            "turns": sums["turns"] / number,
            "failed": int(sums["failed"]),
        }
        path = Path(trainer.default_root_dir, f"{stage}.json")
        with replacing(path) as partial:
            partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        console = Console(highlight=False, soft_wrap=True)
        console.print(table(report))
        console.print(f"{'figures':<12} {shown(path)}", markup=False)

    on_test_start = on_validation_start

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        self.on_validation_batch_end(trainer, pl_module, outputs)

    on_test_end = on_validation_end


def fresh() -> dict[str, Results]:
    """No results of any figure yet."""
    return {name: {} for name in FIGURES}


def rates(played: Results, scores: Results | None = None) -> dict[str, Any]:
    """Results of a panel → success, interval, n and any mean score, as a whole and in ``kinds``."""

    def rate(tasks: list[str]) -> dict[str, Any]:
        mean, low, high = wilson(sum(played[task][1] for task in tasks), len(tasks))
        scored = [scores[task][1] for task in tasks if task in scores] if scores else []
        score = {"score": sum(scored) / len(scored)} if scored else {}
        return {"success": mean, "interval": [low, high], "n": len(tasks), **score}

    kinds = sorted({kind for kind, _ in played.values()})
    by_kind = {kind: rate([task for task, (k, _) in played.items() if k == kind]) for kind in kinds}
    return {**rate(list(played)), "kinds": by_kind}


def table(report: dict[str, Any]) -> Table:
    """The figures of a panel as a table with one row for each kind."""
    context = "with" if report["context"] else "without"
    split = escape(shown(report["split"], 80))
    failed = f"; {report['failed']} failed and count as no success" if report["failed"] else ""
    result = Table(
        title=f"Success on {report['n']} tasks of {split}, student {context} privileged context",
        caption=f"played once each, {report['turns']:.1f} turns a task, temperature {report['temperature']:g}{failed}",
        title_justify="left",
        caption_justify="left",
    )
    result.add_column("tasks")
    for name in ("n", "success", "95 % interval", *(["score"] if "score" in report else [])):
        result.add_column(name, justify="right")
    for name, part in [*report["kinds"].items(), ("all", report)]:
        low, high = part["interval"]
        cells = [str(part["n"]), f"{100 * part['success']:.1f} %", f"{100 * low:.1f} – {100 * high:.1f} %"]
        if "score" in report:
            cells.append(f"{part['score']:.3f}" if "score" in part else "–")
        result.add_row(Text(shown(name, 80)), *cells, style="bold" if part is report else None)
    return result
