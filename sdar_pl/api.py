"""The Python API in one place: the objects that a YAML names, and a ``Trainer`` with what every run has.

README.md trains with these names. Any other class of the package can take a part's place, as in YAML.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from sdar_pl.callbacks import DEFAULT
from sdar_pl.commands.lightning_cli import TRAINER_DEFAULTS
from sdar_pl.datamodule import RolloutDataModule
from sdar_pl.engines import Sampling, TransformersEngine
from sdar_pl.environments.household import Household
from sdar_pl.module import SDARModule
from sdar_pl.objectives import GRPO, SDAR
from sdar_pl.policy import LoRA, Policy
from sdar_pl.prompts import Prompter
from sdar_pl.rollout import PlayRules
from sdar_pl.runtime.checkpoint_files import SafeCheckpointIO
from sdar_pl.runtime.loggers import loggers_of_run
from sdar_pl.skills.providers import SkillContext

__all__ = [
    "GRPO",
    "SDAR",
    "Household",
    "LoRA",
    "PlayRules",
    "Policy",
    "Prompter",
    "RolloutDataModule",
    "SDARModule",
    "Sampling",
    "SkillContext",
    "Trainer",
    "TransformersEngine",
]


class Trainer(L.Trainer):
    """Lightning's ``Trainer`` with the defaults, callbacks, loggers and atomic checkpoints of the command ``fit``.

    Args:
        folder: the run folder.
        callbacks: beside those of every run; one of the same class takes the place of its own.
        logger: in place of TensorBoard, beside metrics.csv.
        settings: any other argument of Lightning's ``Trainer``.
    """

    def __init__(
        self, folder: str | Path, callbacks: Sequence[Callback] = (), logger: Sequence[Logger] = (), **settings: Any
    ) -> None:
        others = [kind() for kind in DEFAULT if not any(isinstance(callback, kind) for callback in callbacks)]
        run = {"callbacks": [*callbacks, *others], "logger": loggers_of_run(logger, Path(folder))}
        place = {"default_root_dir": str(folder), "plugins": SafeCheckpointIO()}
        super().__init__(**{**TRAINER_DEFAULTS, **place, **run, **settings})
