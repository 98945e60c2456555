"""PredictionFile: the episodes of ``predict``, those of all ranks, as one file in the order of the panel."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import lightning as L
from rich.console import Console

from sdar_pl.callbacks.episode_log import row_of
from sdar_pl.callbacks.trainer_access import number_of
from sdar_pl.errors import UserError
from sdar_pl.runtime.files import replacing
from sdar_pl.runtime.ranks import gather_to_rank_zero


class PredictionFile(L.Callback):
    """Writes the episodes of ``predict`` as JSON lines (docs/metrics.md), one a task, and prints where they are.

    Raises ``UserError`` before anything is played if the file cannot be written.

    Args:
        output: the file; null: ``episodes.predict.jsonl`` in the run folder.
    """

    def __init__(self, output: str | None = None) -> None:
        self.output = output
        self.path = Path("episodes.predict.jsonl")
        self.rows: list[dict[str, Any]] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.path = Path(self.output or Path(trainer.default_root_dir, "episodes.predict.jsonl"))
        if stage == "predict" and trainer.is_global_zero:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=self.path.parent).close()
                problem = "it is a folder" if self.path.is_dir() else ""
            except OSError as error:
                problem = str(error.strerror)
            if problem:
                raise UserError(f"--output: cannot write {self.path} ({problem}); name a file that can be written")

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.rows = []

    def on_predict_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        self.rows += [row_of(episode, number_of(trainer), "test") for episode in outputs]

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        rows = [row for part in gather_to_rank_zero(self.rows) for row in part]
        if not trainer.is_global_zero:
            return
        rows.sort(key=lambda row: row["group"])
        with replacing(self.path) as partial, partial.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        successes = sum(row["success"] for row in rows)
        console = Console(highlight=False, soft_wrap=True)
        console.print(f"{len(rows)} tasks played, {successes} succeeded", markup=False)
        console.print(f"{'episodes':<12} {self.path}", markup=False)
