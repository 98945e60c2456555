"""Loggers of a run: metrics.csv and TensorBoard's events, or metrics.csv and those of the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger

from sdar_pl.runtime.metrics_csv import MetricsCSV


class Events(TensorBoardLogger):
    """TensorBoard's events in the run folder, without Lightning's hparams.yaml: config.yaml holds all settings.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, name="", version="")

    def save(self) -> None:
        self.experiment.flush()


def loggers_of_run(named: Sequence[Logger], folder: Path) -> list[Logger]:
    """metrics.csv, which ``report``, ``compare`` and a resumed run read, and the loggers of the configuration.

    Args:
        named: the configuration's loggers; none means TensorBoard.
        folder: the run folder.
    """
    for logger in named:
        if isinstance(logger, MLFlowLogger):
            _name_kinds_with_dots(logger)
    kept = [] if any(isinstance(logger, MetricsCSV) for logger in named) else [MetricsCSV(folder)]
    return [*kept, *(named or [Events(folder)])]


def _name_kinds_with_dots(logger: MLFlowLogger) -> None:
    """Log ``val/success/KIND`` as ``val/success.KIND``.

    MLflow's file store keeps a metric as a file of its name: val/success could not be a folder as well.
    """
    log = logger.log_metrics

    def log_metrics(metrics: Mapping[str, float], step: int | None = None) -> None:
        log({".".join(name.rsplit("/", name.count("/") - 1)): value for name, value in metrics.items()}, step)

    setattr(logger, "log_metrics", log_metrics)  # noqa: B010


def log_settings(loggers: Sequence[Logger], settings: Mapping[str, Any]) -> None:
    """Give the run's settings to the loggers that compare runs by them; config.yaml holds them for the other two."""
    for logger in loggers:
        if not isinstance(logger, (Events, MetricsCSV)):
            logger.log_hyperparams(dict(settings))
