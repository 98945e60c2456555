"""Optimizers and schedulers are tried before a run: what works passes, what does not is named."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from jsonargparse import Namespace
from lightning.pytorch.cli import ReduceLROnPlateau
from torch.optim import lr_scheduler

from sdar_pl.commands.value_checks import try_optimizer
from sdar_pl.errors import UserError

SGD = partial(torch.optim.SGD, lr=0.1)


@pytest.mark.parametrize(
    "scheduler",
    [
        None,
        partial(lr_scheduler.StepLR, step_size=1),
        partial(ReduceLROnPlateau, monitor="train/reward"),  # its step takes the metric
        partial(ReduceLROnPlateau, monitor="train/reward", mode="max"),
    ],
)
def test_what_works_passes(scheduler: Callable[..., Any] | None) -> None:
    try_optimizer(Namespace(), SGD, scheduler)


def test_a_plateau_of_no_metric_is_refused() -> None:
    with pytest.raises(UserError, match=r"^model\.scheduler: .*metrics"):
        try_optimizer(Namespace(), SGD, lr_scheduler.ReduceLROnPlateau)
