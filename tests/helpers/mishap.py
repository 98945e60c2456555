"""A callback that strikes a run at a named moment (test_reliability.py)."""

from __future__ import annotations

import os
import signal
from typing import Any

import lightning as L
import torch

import sdar_pl.datamodule


class Mishap(L.Callback):
    """Sends the signal ``how`` to its own process, or raises where ``how`` is empty.

    In iteration ``iteration`` (from 1), in the phase ``when``: rollout, scoring, update, validation or writing (of the
    checkpoint, with half of it on the disk). Only on rank ``rank``.
    """

    def __init__(self, when: str, iteration: int = 2, how: str = "SIGKILL", rank: int = 0) -> None:
        self.when, self.iteration, self.how, self.rank = when, iteration, how, rank
        self.ended = 0

    def strike(self, trainer: L.Trainer, when: str, iteration: int) -> None:
        if (when, iteration, trainer.global_rank) == (self.when, self.iteration, self.rank):
            self.when = ""
            if not self.how:
                raise RuntimeError("a mishap")
            os.kill(os.getpid(), getattr(signal, self.how))

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        def heard(episode: Any) -> None:
            phase = "validation" if trainer.validating else "rollout"
            done = trainer.fit_loop.epoch_progress.current.processed
            if not trainer.sanity_checking:
                self.ended += 1
                if self.ended % 2 == 0:  # the second episode: others are under way
                    self.strike(trainer, phase, done + 1)

        trainer.datamodule.listeners.append(heard)  # type: ignore[attr-defined]
        score, save = sdar_pl.datamodule.score, torch.save

        def scoring(*args: Any, **options: Any) -> None:
            score(*args, **options)
            self.strike(trainer, "scoring", trainer.fit_loop.epoch_progress.current.processed + 1)

        def saving(value: Any, file: Any, **options: Any) -> None:
            save(value, file, **options)
            done = trainer.fit_loop.epoch_progress.current.processed
            if (self.when, done) == ("writing", self.iteration) and hasattr(file, "name"):
                file.truncate(file.tell() // 2)
                self.strike(trainer, "writing", done)

        sdar_pl.datamodule.score, torch.save = scoring, saving  # type: ignore[assignment]

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.strike(trainer, "update", trainer.current_epoch + 1)
