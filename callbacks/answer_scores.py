"""AnswerScores: exact match, F1 and substring match of ``validate`` and ``test``, for each dataset of questions."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L

from sdar_pl.callbacks.summary import Results, gathered
from sdar_pl.environments.search_qa.panel import MEASURES, averages, scores
from sdar_pl.runtime.files import replacing


class AnswerScores(L.Callback):
    """Writes ``answers.json`` in the run folder at the end of ``validate`` and ``test``, over the whole panel.

    For SearchQA. The file holds, for each measure (exact_match, f1, substring_match), the mean of each dataset, "micro"
    over all questions and "macro" over the datasets; and ``n``, the number of questions of each dataset. An episode
    that failed or gave no answer counts 0.
    """

    def __init__(self) -> None:
        self.played: dict[str, Results] = {name: {} for name in MEASURES}

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.played = {name: {} for name in MEASURES}

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        for episode in outputs:
            for name, value in scores(episode).items():
                self.played[name][episode.task.id] = (episode.task.data["source"], value)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn not in ("validate", "test"):
            return
        played = {name: gathered(results) for name, results in self.played.items()}
        if not trainer.is_global_zero or not played["exact_match"]:
            return
        report: dict[str, Any] = {name: averages(results) for name, results in played.items()}
        report["n"] = dict(sorted(Counter(dataset for dataset, _ in played["exact_match"].values()).items()))
        with replacing(Path(trainer.default_root_dir, "answers.json")) as partial:
            partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")

    on_test_start = on_validation_start

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        self.on_validation_batch_end(trainer, pl_module, outputs)

    on_test_end = on_validation_end
