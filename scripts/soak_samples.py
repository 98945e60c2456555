"""Samples: a callback that writes what the process holds and has used, after every iteration (soak.py reads it)."""

from __future__ import annotations

import csv
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L

from sdar_pl.callbacks import Checkpoints
from sdar_pl.callbacks.trainer_access import data_of, iteration_of
from sdar_pl.environments.faults import Faulty

COLUMNS = ("iteration", "memory", "descriptors", "threads", "wall_s", "cpu_s", "checkpoint_wall_s", "checkpoint_cpu_s")


def anonymous_memory() -> int:
    """Bytes of this process's own memory, resident and swapped (Linux).

    Pages of files do not count: the system takes them back when other processes need memory.
    """
    sizes = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return sum(1024 * int(sizes[name].split()[0]) for name in ("RssAnon", "VmSwap"))


class Samples(L.Callback):
    """Writes samples.csv, a line an iteration, and sums.json at the end: episodes, failed ones, injected faults.

    Anonymous memory in bytes, open descriptors, threads; seconds since the last line by the clock and of processor
    time, and those of them that the callback Checkpoints took.
    """

    def __init__(self) -> None:
        self.last = self.now()
        self.checkpoints = [0.0, 0.0]
        self.sums = {"episodes": 0, "failed": 0}

    @staticmethod
    def now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Checkpoints):
                for hook in ("on_train_epoch_start", "on_train_epoch_end"):
                    setattr(callback, hook, self.timed(getattr(callback, hook)))

    def timed(self, hook: Callable[..., None]) -> Callable[..., None]:
        def measured(*arguments: Any) -> None:
            began = self.now()
            hook(*arguments)
            for i, (before, after) in enumerate(zip(began, self.now(), strict=True)):
                self.checkpoints[i] += after - before

        return measured

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.path = Path(trainer.default_root_dir, "samples.csv")
        with self.path.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(COLUMNS)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.is_last_batch:  # of an iteration; the line holds the checkpoint written at the last one's end
            now, iteration = self.now(), iteration_of(trainer)
            used = [after - before for before, after in zip(self.last, now, strict=True)]
            values = [
                *(trainer.current_epoch + 1, anonymous_memory(), len(os.listdir("/proc/self/fd"))),
                *(threading.active_count(), *used, *self.checkpoints),
            ]
            with self.path.open("a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(values)
            self.last, self.checkpoints = now, [0.0, 0.0]
            self.sums["episodes"] += len(iteration.episodes) + len(iteration.failed)
            self.sums["failed"] += len(iteration.failed)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        world = data_of(trainer).environment
        injected = dict(world.injected) if isinstance(world, Faulty) else {}
        Path(trainer.default_root_dir, "sums.json").write_text(json.dumps({**self.sums, "injected": injected}))
