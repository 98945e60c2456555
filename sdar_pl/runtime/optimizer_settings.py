"""Settings of optimizer and scheduler: as part of a run's fingerprint, and adopted by a resumed run.

A checkpoint's optimizer state holds the settings with which the run began, and loading it would silently undo a
change of the learning rate in the configuration.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch

from sdar_pl.runtime.run_fingerprint import IMPLEMENTATION, plain

#: attributes of schedulers that are state
COUNTERS = ("last_epoch", "verbose", "optimizer")


def optimizer_settings(make_optimizer: Any, make_scheduler: Any) -> dict[str, Any]:
    """Class and settings of what the configuration makes, by key in YAML."""
    optimizer = make_optimizer([torch.nn.Parameter(torch.zeros(1))])
    values: dict[str, Any] = {"model.optimizer": type(optimizer).__name__}
    for name, value in optimizer.defaults.items():
        if name not in IMPLEMENTATION:
            values[f"model.optimizer.{name}"] = plain(float(value) if isinstance(value, torch.Tensor) else value)
    values["model.scheduler"] = None
    if make_scheduler is not None:
        scheduler = make_scheduler(optimizer)
        values["model.scheduler"] = type(scheduler).__name__
        for name, value in vars(scheduler).items():
            if isinstance(value, (int, float)) and not name.startswith("_") and name not in COUNTERS:
                values[f"model.scheduler.{name}"] = value
    return values


def adopt_settings(new: Mapping[str, Any], old: Mapping[str, Any], trainer: Any) -> None:
    """Give a trainer's restored optimizers and schedulers the configuration's settings that the checkpoint's differ in.

    The present learning rate, which a schedule may have lowered, changes by the ratio of the two. Warns of each change.

    Args:
        new: the settings to adopt, by key in YAML (``refuse_mismatch``).
        old: the checkpoint's settings, by key in YAML.
        trainer: its ``optimizers`` and ``lr_scheduler_configs`` are changed.
    """
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    for key, value in new.items():
        warnings.warn(f"{key}: {old.get(key)} in the checkpoint, {value} from here on", stacklevel=2)
        part, name = key.rsplit(".", 1)
        if part == "model.scheduler":
            for scheduler in schedulers:
                setattr(scheduler, name, value)
            continue
        for group in (group for optimizer in trainer.optimizers for group in optimizer.param_groups):
            before = old.get(key)
            group[name] = group[name] * value / before if name == "lr" and before else value
            if name == "lr" and "initial_lr" in group:
                group["initial_lr"] = value
        if name == "lr":
            for scheduler in schedulers:
                if hasattr(scheduler, "base_lrs"):
                    scheduler.base_lrs = [value for _ in scheduler.base_lrs]
