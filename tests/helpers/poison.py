"""Numbers that are not finite, put where a run meets them (tests/runs/test_not_finite.py)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lightning as L
import torch

from sdar_pl.modeling.sharding import local
from sdar_pl.objectives import SDAR
from sdar_pl.objectives.inputs import LossInputs, LossOutputs
from sdar_pl.runtime.ranks import rank


class Poison(L.Callback):
    """NaN in one element of one gradient, or in a weight, on one rank.

    Args:
        what: "gradient" (after backward), "weight" (after the iteration's last step).
        iterations: the iterations (from 1) in whose first step it strikes.
        only: the rank that it strikes.
    """

    def __init__(self, what: str = "gradient", iterations: tuple[int, ...] = (1,), only: int = 0) -> None:
        self.what, self.iterations, self.only = what, iterations, only
        self.step = 0  # of the iteration

    def _strikes(self, trainer: L.Trainer) -> bool:
        return trainer.current_epoch + 1 in self.iterations and trainer.global_rank == self.only

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.step = batch_idx // trainer.accumulate_grad_batches

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        if self.what == "gradient" and self._strikes(trainer) and self.step == 0:
            local(pl_module.policy.trained()[-1][1].grad).view(-1)[0] = torch.nan

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.what == "weight" and self._strikes(trainer):
            with torch.no_grad():
                local(pl_module.policy.trained()[-1][1]).view(-1)[0] = torch.nan


class InfiniteLoss(SDAR):
    """SDAR whose loss is +∞ in one micro-batch of some iterations, with SDAR's gradient.

    Args:
        iterations: these iterations, from 1.
        micro_batch: number of the micro-batch, from 0.
        only: the rank.
        coefficient: SDAR's.
    """

    def __init__(
        self, iterations: tuple[int, ...] = (1,), micro_batch: int = 1, only: int = 0, coefficient: float = 1.0
    ) -> None:
        super().__init__(coefficient=coefficient)
        self.iterations, self.micro_batch, self.only = iterations, micro_batch, only
        self._seen = (0, -1)  # iteration, micro-batch

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        outputs = super().__call__(inputs)
        iteration = inputs.iteration + 1
        self._seen = iteration, self._seen[1] + 1 if iteration == self._seen[0] else 0
        if iteration in self.iterations and self._seen[1] == self.micro_batch and rank() == self.only:
            return replace(outputs, loss=outputs.loss + torch.inf)
        return outputs
