"""Throughput: seconds and peak memory of each phase of an iteration, and tokens per second of the engine."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import lightning as L
import torch

from sdar_pl.batch import Batch
from sdar_pl.callbacks.trainer_access import data_of, iteration_of, module_of, reduce


class Throughput(L.Callback):
    """Logs ``time/rollout_s``, ``time/score_s`` and ``time/update_s`` (first to last micro-batch; a validation is not
    part of it) – of the slowest rank, for which the others wait –, with ``data.ahead`` also ``time/wait_s``, and,
    summed over ranks, ``rollout/generated_tokens``, ``rollout/prefilled_tokens`` and ``rollout/tokens_per_s``
    (generated tokens a second of rollout). Peak memory of the rank with the most: ``memory/rollout_gib`` (since the
    last update, so with scoring) and ``memory/update_gib``. ``memory/halved``: how often a micro-batch was halved after
    an out-of-memory error, where there was any.
    """

    def __init__(self) -> None:
        self.began = self.ended = self.rollout_gib = self.waited_s = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.began = self.ended = working_clock(trainer)
        self.rollout_gib = peak_gib(trainer.strategy.root_device)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.is_last_batch and trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()  # kernels run asynchronously: wait for them before the clock is read
        self.ended = working_clock(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        iteration, data = iteration_of(trainer), data_of(trainer)
        waited_s, self.waited_s = data.kept.waited_s - self.waited_s, data.kept.waited_s
        times = [iteration.rollout_s, iteration.score_s, self.ended - self.began, waited_s]
        rollout_s, score_s, update_s, wait_s = reduce(trainer, times, "max")
        memory = [self.rollout_gib, peak_gib(trainer.strategy.root_device)]
        rollout_gib, update_gib = reduce(trainer, memory, "max")
        counts = [float(iteration.generated), float(iteration.prefilled), float(data.budget.errors)]
        generated, prefilled, halved = reduce(trainer, counts, "sum")
        data.budget.errors = 0
        module_of(trainer).write(
            {
                "time/rollout_s": rollout_s,
                "time/score_s": score_s,
                "time/update_s": update_s,
                **({"time/wait_s": wait_s} if data.ahead else {}),
                "memory/rollout_gib": rollout_gib,
                "memory/update_gib": update_gib,
                "rollout/generated_tokens": generated,
                "rollout/prefilled_tokens": prefilled,
                "rollout/tokens_per_s": generated / rollout_s if rollout_s > 0 else 0.0,
                **({"memory/halved": halved} if halved else {}),
            }
        )


def working_clock(trainer: L.Trainer) -> float:
    """Seconds that stand still while training waits for a rollout that is played ahead."""
    return time.perf_counter() - data_of(trainer).kept.waited_s


def peak_gib(device: torch.device) -> float:
    """Peak memory in GiB: of CUDA what torch allocated since the last call, else the process's since its start."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
