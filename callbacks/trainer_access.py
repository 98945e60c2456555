"""Typed access to the module, its data and TensorBoard, for all callbacks."""

from __future__ import annotations

from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from sdar_pl.datamodule import RolloutDataModule
from sdar_pl.module import SDARModule
from sdar_pl.sampling.iteration import Iteration


def module_of(trainer: L.Trainer) -> SDARModule:
    """The module that is trained."""
    return cast(SDARModule, trainer.lightning_module)


def data_of(trainer: L.Trainer) -> RolloutDataModule:
    """The datamodule, where rollouts come from."""
    return cast(RolloutDataModule, trainer.datamodule)  # type: ignore[attr-defined]


def iteration_of(trainer: L.Trainer) -> Iteration:
    """The rollout that is being trained on."""
    iteration = data_of(trainer).iteration
    assert iteration is not None
    return iteration


def number_of(trainer: L.Trainer) -> int:
    """Number of the current iteration, from 1; 0 before any update (as in ``SDARModule.write``)."""
    return 0 if trainer.sanity_checking else trainer.current_epoch + (trainer.state.fn == "fit")


def events_of(trainer: L.Trainer) -> Any:
    """TensorBoard's writer on rank 0, else None."""
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                return logger.experiment
    return None


def reduce(trainer: L.Trainer, values: list[float], how: str) -> list[float]:
    """The "sum" or "max" over all ranks of each of ``values``. Collective."""
    if trainer.world_size == 1:
        return values
    tensor = torch.tensor(values, device=trainer.strategy.root_device)
    return [float(value) for value in trainer.strategy.reduce(tensor, reduce_op=how)]
