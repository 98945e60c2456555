"""Checkpoints: the times at which checkpoints are written; sdar_pl/runtime/checkpoint_files.py writes them.

checkpoints/last.ckpt            after every rollout (with it) and at the end of every iteration
            iteration-0016.ckpt  the ends of the last ``keep`` iterations
            best.ckpt            the iteration with the best validation
adapter/                         adapters of best.ckpt (without validation: of last.ckpt) as a peft folder
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from sdar_pl.callbacks.trainer_access import iteration_of, module_of
from sdar_pl.checks import at_least
from sdar_pl.errors import UserError
from sdar_pl.runtime.checkpoint_files import iteration_files, same_file, write_adapter
from sdar_pl.runtime.metrics_csv import MetricsCSV


class Checkpoints(Checkpoint):
    """Writes checkpoints, so that a run that is killed at any moment loses no finished rollout.

    Args:
        keep: number of recent iterations whose checkpoints are kept, ≥ 1.
        monitor: name of the metric of metrics.csv whose highest value marks the best iteration.
    """

    def __init__(self, keep: int = 2, monitor: str = "val/success") -> None:
        self.keep, self.monitor = at_least("trainer.callbacks.Checkpoints.keep", keep, 1), monitor
        self.best: float | None = None
        self.score: float | None = None  # of this iteration's validation
        self.folder = Path("checkpoints")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    @property
    def best_model_path(self) -> str:
        """Path of best.ckpt, or "" if there is none (Lightning's name)."""
        path = self.folder / "best.ckpt"
        return str(path) if self.best is not None and path.exists() else ""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.folder = Path(trainer.default_root_dir, "checkpoints")
        if self.folder.is_symlink():
            raise UserError(
                f"{self.folder}: is a symbolic link, which a run does not write through; make it a folder, or link "
                "trainer.default_root_dir itself"
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:  # a run resumed from an earlier iteration repeats the later ones
            for path in iteration_files(self.folder):
                if int(path.stem.split("-")[1]) > trainer.current_epoch:
                    path.unlink()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not iteration_of(trainer).restored:
            # Lightning resets these counts right after this hook. With the counts of the previous iteration in the
            # checkpoint, a resumed run would take this iteration for finished.
            inner = trainer.fit_loop.epoch_loop
            for progress in inner.batch_progress, inner.scheduler_progress, inner.automatic_optimization.optim_progress:
                progress.reset_on_run()
            trainer.save_checkpoint(self.folder / "last.ckpt", weights_only=False)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking and self.monitor in trainer.callback_metrics:
            self.score = float(trainer.callback_metrics[self.monitor])

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        better = self.score is not None and (self.best is None or self.score > self.best)
        self.best, self.score = self.score if better else self.best, None
        path = self.folder / f"iteration-{trainer.current_epoch + 1:04d}.ckpt"
        write_row(trainer)
        trainer.save_checkpoint(path, weights_only=False)
        if not trainer.is_global_zero:
            return
        same_file(path, "last.ckpt")
        if better:
            same_file(path, "best.ckpt")
        if (better or self.best is None) and module_of(trainer).policy.lora is not None:
            write_adapter(path, Path(trainer.default_root_dir, "adapter"))
        for old in iteration_files(self.folder)[: -self.keep]:
            old.unlink()


def write_row(trainer: L.Trainer) -> None:
    """Write the iteration's row of metrics.csv. Collective.

    Lightning logs an epoch's values after this hook: a run that is killed in between would go on behind the iteration,
    and its row would stay empty.
    """
    logged: Any = trainer._logger_connector.metrics["log"]
    values: dict[str, Any] = {name: float(value) for name, value in logged.items()}
    step = values.pop("step", None)
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCSV) and step is not None:
            logger.log_metrics(values, step=int(step))
