"""Lightning's command line: parser, links between arguments, run folder, loggers, default callbacks and plugins."""

from __future__ import annotations

import argparse
import re
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from jsonargparse import get_loader, set_loader
from lightning.pytorch.callbacks import Callback, Checkpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.strategies import StrategyRegistry
from lightning.pytorch.strategies.launchers import subprocess_script

from sdar_pl.callbacks.prediction_file import PredictionFile
from sdar_pl.commands.trainer_arguments import refusal_of_lightning, refuse_trainer_arguments, timer_between_iterations
from sdar_pl.commands.value_checks import refuse_unusable_values, try_optimizer
from sdar_pl.errors import UserError
from sdar_pl.runtime.checkpoint_files import SafeCheckpointIO
from sdar_pl.runtime.config_files import refuse_traps
from sdar_pl.runtime.files import replacing
from sdar_pl.runtime.loggers import log_settings, loggers_of_run
from sdar_pl.runtime.long_work import hide_bars_of_loading
from sdar_pl.runtime.loopback import meeting_on_loopback, starts_ranks_here
from sdar_pl.runtime.messages import quieten, user_error_behind
from sdar_pl.runtime.parse_errors import explain
from sdar_pl.runtime.processes import GUARD
from sdar_pl.runtime.run_folder import checkpoint_path, forget_unused, resume_command, run_folder
from sdar_pl.runtime.strategy import FSDP2Strategy
from sdar_pl.sampling.compatibility import refuse_ranks_without_groups

TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": 150,
    "check_val_every_n_epoch": 5,
    "default_root_dir": "runs",
    "gradient_clip_val": 1.0,
    # One epoch is one iteration: new rollouts at every epoch, sharded by the DataModule itself.
    "reload_dataloaders_every_n_epochs": 1,
    "use_distributed_sampler": False,
    # Tensors made in inference mode cannot be trained on later.
    "inference_mode": False,
    # The whole panel is played before the first update.
    "num_sanity_val_steps": -1,
    "log_every_n_steps": 1,
    "enable_model_summary": False,
}


def launch(
    command_line: type[CommandLine],
    module: type[L.LightningModule],
    data: type[L.LightningDataModule],
    arguments: Sequence[str],
    *,
    description: str,
    prog: str = "python -m sdar_pl",
    subcommands: bool = True,
    **options: Any,
) -> None:
    """Parse ``arguments``, instantiate what they name and run it. ``subcommands``: whether the first argument is one of
    the trainer's (fit, validate, test, predict). Raises ``UserError`` for arguments that cannot be parsed."""
    quieten()  # once more, as importing Lightning has changed how warnings are printed
    StrategyRegistry.register("fsdp2", FSDP2Strategy, description="FSDP2: sharded over all ranks", override=True)
    hide_bars_of_loading()
    # Lightning's own observer of the other ranks ends a run without a message.
    setattr(subprocess_script, "_launch_process_observer", GUARD.watch)  # noqa: B010
    torch.set_float32_matmul_precision("high")
    set_loader("yaml", _load_strictly, (yaml.YAMLError,))
    command_line(
        module,
        data,
        trainer_defaults=TRAINER_DEFAULTS,
        save_config_callback=SavedConfig,
        save_config_kwargs={"save_to_log_dir": False},
        seed_everything_default=0,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        parser_class=Parser,
        parser_kwargs={"prog": prog, "description": description},
        run=subcommands,
        args=list(arguments),
        **options,
    )


_load = get_loader("yaml")


def _load_strictly(text: str) -> Any:
    refuse_traps(text)
    return _load(text.removeprefix("\ufeff"))  # a byte order mark


class Parser(LightningArgumentParser):
    """Raises ``UserError`` with the key and its problem, where jsonargparse prints usage and a stack of causes."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        if not self.exit_on_error:  # the parser of a part: the parsers around it add their keys
            super().error(message, ex)
        raise UserError(explain(message, _keys(self))) from ex


def _keys(parser: argparse.ArgumentParser) -> list[str]:
    """The keys of a parser and of its subcommands."""
    below = [one for action in parser._actions if isinstance(action.choices, dict) for one in action.choices.values()]
    return [action.dest for one in (parser, *below) for action in one._actions]


def _with_place(error: BaseException) -> str:
    """An error's type, text, file and line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({place.filename}, line {place.lineno})"


def _error_of_part(error: BaseException) -> str:
    """An error of a constructor without jsonargparse's wrapping, which names every member of a union."""
    cause = error
    while isinstance(cause.__cause__, Exception):
        cause = cause.__cause__
    part = re.search(r"Given value: \[?Namespace\(class_path='([\w.]+)'", str(error))
    if match := re.match(r"(\w+)\.__init__\(\) (got an unexpected keyword argument .+)", str(cause)):
        return f"{match[1]}: {match[2]}"
    return f"{part[1]}: {cause}" if part else _with_place(cause)


class SavedConfig(SaveConfigCallback):
    """Writes the configuration to ``config.yaml`` in the run folder, atomically.

    A run that goes on from a checkpoint writes it once the checkpoint has been accepted. The arguments of ``fit`` alone
    are left out (``ckpt_path``): a run that is started from this file is a new run, and every command reads the file.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not self.config.get("ckpt_path"):
            super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().setup(trainer, pl_module, "fit")

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        config = self.config.clone()
        for name in ("ckpt_path", "weights_only"):
            config.pop(name, None)
        with replacing(Path(trainer.default_root_dir, self.config_filename)) as partial:
            self.parser.save(config, str(partial), skip_none=False, multifile=False)
        log_settings(trainer.loggers, config.as_dict())


class CommandLine(LightningCLI):
    """The arguments that every command with a run's configuration has."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--run", type=str | None, default=None, help="Name of the run folder (default: the config file's)."
        )
        # The two halves of an iteration work on the same objects.
        for part in ("policy", "objective", "teacher"):
            parser.link_arguments(f"model.{part}", f"data.{part}", apply_on="instantiate")
        parser.link_arguments("model.teacher_refresh", "data.teacher_refresh")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=lambda seed: int(seed or 0))

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Raises ``UserError`` for values that no run can use, and for a class whose import fails."""
        try:
            super().parse_arguments(parser, args)
        except (UserError, SystemExit):
            raise
        except Exception as error:
            frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
            imported = [frame.f_locals["name"] for frame in frames if frame.f_code.co_name == "import_object"]
            raise UserError(f"{imported[0] if imported else 'configuration'}: {_with_place(error)}") from error
        config = self.config[self.config.subcommand] if "subcommand" in self.config else self.config
        parts = {"data": self.datamodule_class, "model": self.model_class, "trainer": L.Trainer}
        refuse_unusable_values(config, parts)

    def instantiate_classes(self) -> None:
        """Raises ``UserError`` for an error of a constructor: its own, or the error's text and place."""
        try:
            super().instantiate_classes()
        except Exception as error:
            raise user_error_behind(error) or UserError(refusal_of_lightning(error) or _error_of_part(error)) from error


class TrainerCommandLine(CommandLine):
    """``fit``, ``validate``, ``test`` and ``predict``.

    Args:
        default_callbacks: classes of callbacks that every run has, unless the configuration names one of the class.
    """

    def __init__(self, *arguments: Any, default_callbacks: Sequence[type[Callback]] = (), **options: Any) -> None:
        self.default_callbacks = default_callbacks
        self.run_folder = Path()
        with ExitStack() as self.until_end:
            try:
                super().__init__(*arguments, **options)  # runs the subcommand
            except Exception as error:
                forget_unused(self.run_folder)
                refusal = None if GUARD.signal_received else refusal_of_lightning(error)
                if refusal is None:
                    raise
                raise UserError(refusal) from error

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **options: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **options)
        if subcommand == "predict":
            parser.add_argument(
                "--output",
                type=str | None,
                default=None,
                help="File for the played episodes (default: episodes.predict.jsonl in the run folder).",
            )
        return parser

    def before_instantiate_classes(self) -> None:
        """Refuse what no run can honour; choose the run folder and the checkpoint to resume from."""
        config, training = self.config[self.subcommand], self.subcommand == "fit"
        refuse_trainer_arguments(config.trainer, config.data.steps_per_iteration)
        wanted = config.get("ckpt_path")
        self.run_folder = run_folder(config, wanted, self.until_end, training)
        config.run = self.run_folder.name  # in config.yaml, so that the run is found by it
        if wanted:
            config.ckpt_path = checkpoint_path(self.run_folder, str(wanted))
            if wanted in ("last", "best") and not GUARD.is_child:
                print(f"ckpt_path: {wanted} is {config.ckpt_path}", flush=True)
        if training:
            GUARD.advise = partial(resume_command, self.run_folder)

    def _parse_ckpt_path(self) -> None:
        """Skip Lightning's search for hyperparameters in the checkpoint: ours are in the configuration alone."""

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        if self.subcommand == "fit":
            config = self.config[self.subcommand].model
            try_optimizer(config, self.model.make_optimizer, self.model.make_scheduler)

    def instantiate_trainer(self, **options: Any) -> L.Trainer:
        """The trainer of the configuration, with the default loggers, callbacks and checkpoint plugin."""
        settings = self._get(self.config_init, "trainer", default={})
        if self.subcommand != "fit":  # an evaluation leaves the record of its run alone
            options["logger"] = False
            self.save_config_callback = None
        elif settings["logger"] is not False:
            named = [] if settings["logger"] is True else _as_list(settings["logger"])
            options["logger"] = loggers_of_run(named, self.run_folder)
        options["callbacks"] = self._with_defaults(_as_list(settings["callbacks"]), settings)
        if settings["max_time"] is not None:
            options["callbacks"].append(timer_between_iterations(settings["max_time"]))
            options["max_time"] = None
        if self.subcommand == "predict":
            options["callbacks"].append(PredictionFile(self._get(self.config_init, "output")))
        plugins = _as_list(settings["plugins"])
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            options["plugins"] = [*plugins, SafeCheckpointIO()]
        trainer = super().instantiate_trainer(**options, default_root_dir=str(self.run_folder))
        refuse_ranks_without_groups(self._get(self.config_init, "data").tasks_per_iteration, trainer.world_size)
        if starts_ranks_here(trainer) and not GUARD.is_child:
            self.until_end.enter_context(meeting_on_loopback())
        return trainer

    def _with_defaults(self, callbacks: list[Callback], settings: Any) -> list[Callback]:
        """``callbacks`` and those default ones that neither they nor the trainer's settings make superfluous."""
        bar = settings["enable_progress_bar"] is not False and not any(isinstance(c, ProgressBar) for c in callbacks)
        checkpoints = settings["enable_checkpointing"] is not False and not settings["fast_dev_run"]
        wanted = [
            kind
            for kind in self.default_callbacks
            if not any(isinstance(callback, kind) for callback in callbacks)
            and (bar or not issubclass(kind, ProgressBar))
            and (checkpoints or not issubclass(kind, Checkpoint))
        ]
        return [*callbacks, *(kind() for kind in wanted)]

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """The arguments of ``Trainer.validate`` and the like: callbacks show the evaluation and write the episodes."""
        settings = super()._prepare_subcommand_kwargs(subcommand)
        return settings | {name: False for name in ("verbose", "return_predictions") if name in settings}


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
