"""Training episodes as a table of Weights & Biases or of MLflow, one row an episode.

Texts are escaped as in TensorBoard: no control character of a model or an environment reaches the page that shows them.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger

#: columns of the table
COLUMNS = ("iteration", "task", "kind", "success", "reward", "turns", "gap", "episode")


def loggers_with_tables(trainer: L.Trainer) -> list[Logger]:
    """The loggers of rank 0 that can store a table. MLflow's client makes tables with pandas."""
    kinds = (WandbLogger, MLFlowLogger) if find_spec("pandas") else (WandbLogger,)
    return [logger for logger in trainer.loggers if trainer.is_global_zero and isinstance(logger, kinds)]


def log_table(logger: Logger, rows: Sequence[Sequence[Any]], iteration: int) -> None:
    """Store rows of ``COLUMNS``: as ``episodes`` in W&B, in MLflow as an artifact of each iteration."""
    if isinstance(logger, WandbLogger):
        logger.log_table("episodes", columns=list(COLUMNS), data=[list(row) for row in rows], step=iteration)
    elif isinstance(logger, MLFlowLogger) and logger.run_id is not None:
        columns = dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True))
        logger.experiment.log_table(logger.run_id, columns, f"episodes/iteration-{iteration:04}.json")
