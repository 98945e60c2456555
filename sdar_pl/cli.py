"""``python -m sdar_pl {fit,validate,test,predict,plan} --config file.yaml``: LightningCLI, a run folder, plain errors.

The configuration's keys are the constructors' own arguments (``--help`` and ``--print_config`` show them). A run writes
below ``<trainer.default_root_dir>/<run>``: metrics.csv, TensorBoard events, config.yaml, episodes.jsonl, checkpoints/,
adapter/. What is wrong in a user's input is said in one line, with exit status 2. ``compare`` is compare.py, ``export``
is export.py, what stops a run before its end processes.py.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: used in addition to those that the configuration names; by name, for nothing here imports callbacks
CALLBACKS = ("GateStats", "EpisodeLog", "Throughput", "Progress", "Summary", "EvaluationTable", "Checkpoints")

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

DESCRIPTION = (
    "Train LLM agents with SDAR, GRPO and their family. Beside the subcommands below: 'plan' (memory of a run from its "
    "configuration), 'compare' (methods on paired seeds) and 'export' (a checkpoint for other tools), each with its "
    "own --help; '--version'."
)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line → exit status."""
    arguments = list(sys.argv[1:] if args is None else args)
    if arguments[:1] == ["--version"]:
        from sdar_pl import __version__

        print(f"sdar_pl {__version__}")
        return 0
    if arguments[:1] in (["compare"], ["export"], ["check-env"]):
        return _other(arguments[0], arguments[1:])
    planning = arguments[:1] == ["plan"]
    if planning:
        args = arguments = arguments[1:]
    _quieten()
    from sdar_pl.errors import UserError
    from sdar_pl.runtime.messages import add_file_name, read_configs
    from sdar_pl.runtime.processes import GUARD, Stopped, say

    files: dict[str, Any] = {}
    try:
        with GUARD.active():
            files = read_configs(arguments)
            _run(None if args is None else arguments, planning)
    except UserError as error:
        GUARD.failed(error)
        return _fail(add_file_name(str(error), files, arguments))
    except (Stopped, KeyboardInterrupt) as error:
        say(f"stopped. {GUARD.resume}")
        return 128 + getattr(error, "signal", 2)
    except Exception as error:
        if GUARD.told:  # what the other ranks' end has brought about
            say(f"stopped. {GUARD.resume}")
            return 128 + GUARD.told
        GUARD.failed(error)
        if type(error).__name__ == "MisconfigurationException":
            return _fail(f"trainer: {error}")
        raise
    return 0


def _other(command: str, arguments: list[str]) -> int:
    """A subcommand that is none of the trainer's."""
    _quieten()
    from sdar_pl.errors import UserError

    try:
        status: int = importlib.import_module(f"sdar_pl.commands.{command.replace('-', '_')}").main(arguments)
        return status
    except UserError as error:
        return _fail(str(error))


def _fail(message: str) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2


def _quieten() -> None:
    """Silence what other libraries say at every start and what no user can act on; other warnings are one line."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    # Threads that wait give up their core: beside any other busy process, spinning ones slow a run down several times.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    for name, level in {
        "lightning.pytorch": logging.WARNING,
        "lightning.fabric": logging.WARNING,
        "lightning.pytorch.utilities.rank_zero": logging.WARNING,
        "lightning.fabric.utilities.seed": logging.WARNING,
        "bitsandbytes": logging.ERROR,
    }.items():
        logging.getLogger(name).setLevel(level)
    for message in (
        r".*does not have many workers.*",
        r".*Starting from v1.9.0, `tensorboardX`.*",
        r".*GPU available but not used.*",
        r".*isinstance\(treespec, LeafSpec\).*",
        r".*You have overridden `transfer_batch_to_device`.*",
        r".*gradient_checkpointing.*is deprecated.*",
        r".*Checkpoint directory .* exists and is not empty.*",
        r".*Found .* module\(s\) in eval mode.*",
        r".*`training_step` returned.*",
        r".*It is recommended to use `self.log\(.*sync_dist=True.*",
        r".*The total number of parameters detected.*",
        r".*LightningCLI's args parameter is intended.*",
        r".*FSDP2-wrapped module .* returned a view tensor.*",  # nobody changes it in place
    ):
        warnings.filterwarnings("ignore", message)


def _run(arguments: list[str] | None, planning: bool = False) -> None:
    import torch
    from jsonargparse import ArgumentError
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import ProgressBar
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
    from lightning.pytorch.loggers import TensorBoardLogger
    from lightning.pytorch.plugins import CheckpointIO
    from lightning.pytorch.strategies import StrategyRegistry
    from lightning.pytorch.strategies.launchers import subprocess_script
    from transformers.utils import logging as transformers_logging

    from sdar_pl.datamodule import RolloutDataModule
    from sdar_pl.errors import UserError
    from sdar_pl.module import SDARModule
    from sdar_pl.runtime.checkpoint_files import SafeCheckpointIO
    from sdar_pl.runtime.messages import behind, shorten
    from sdar_pl.runtime.metrics_csv import MetricsCSV
    from sdar_pl.runtime.processes import GUARD
    from sdar_pl.runtime.run_folder import advice, checkpoint, run_folder
    from sdar_pl.runtime.strategy import FSDP2Strategy

    StrategyRegistry.register("fsdp2", FSDP2Strategy, description="FSDP2: sharded over all ranks", override=True)
    transformers_logging.disable_progress_bar()
    # Lightning's own observer ends a run without a word.
    setattr(subprocess_script, "_launch_process_observer", GUARD.watch)  # noqa: B010

    class Parser(LightningArgumentParser):
        """Raises ``UserError`` with the heart of the message instead of printing usage and a stack of causes."""

        def error(self, message: str, ex: Exception | None = None) -> Any:
            raise UserError(shorten(message)) from ex

    class CLI(LightningCLI):
        run_folder = Path()

        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_argument(
                "--run", type=str | None, default=None, help="Name of the run folder (default: the config file's)."
            )
            parser.link_arguments("data.sampling.temperature", "model.temperature")
            parser.link_arguments("seed_everything", "data.seed", compute_fn=lambda seed: int(seed or 0))

        def before_instantiate_classes(self) -> None:
            config = self.config[self.subcommand]
            self.run_folder = run_folder(config, resumed=config.get("ckpt_path"))
            if config.get("ckpt_path"):
                config.ckpt_path = checkpoint(self.run_folder, str(config.ckpt_path))
            if self.subcommand == "fit":
                GUARD.resume = advice(self.run_folder)

        def _parse_ckpt_path(self) -> None:
            """Lightning's would look for hyperparameters in the file; ours are in the configuration alone."""

        def instantiate_classes(self) -> None:
            try:
                super().instantiate_classes()
            except ValueError as error:
                complaint = behind(error)
                if complaint is None:
                    raise
                raise complaint from None

        def instantiate_trainer(self, **kwargs: Any) -> Trainer:
            settings = self._get(self.config_init, "trainer", default={})
            if self.subcommand != "fit":  # an evaluation leaves the record of its run alone
                kwargs["logger"] = False
                self.save_config_callback = None
            elif settings["logger"] in (None, True):
                events = TensorBoardLogger(self.run_folder, name="", version="")
                kwargs["logger"] = [MetricsCSV(self.run_folder), events]
            return super().instantiate_trainer(**kwargs)

        def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Trainer:
            given = [*(config.get("callbacks") or []), *callbacks]
            known = importlib.import_module("sdar_pl.callbacks")
            bars = any(isinstance(callback, ProgressBar) for callback in given)
            for name in CALLBACKS:
                if name == "Progress" and (bars or config.get("enable_progress_bar") is False):
                    continue
                if name == "Checkpoints" and config.get("enable_checkpointing") is False:
                    continue
                if not any(isinstance(callback, getattr(known, name)) for callback in given):
                    callbacks.append(getattr(known, name)())
            plugins = config.get("plugins") or []
            plugins = plugins if isinstance(plugins, list) else [plugins]
            if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
                config["plugins"] = [*plugins, SafeCheckpointIO()]
            config["default_root_dir"] = str(self.run_folder)
            return super()._instantiate_trainer(config, callbacks)

        def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
            settings = super()._prepare_subcommand_kwargs(subcommand)
            if "verbose" in settings:
                settings["verbose"] = False  # callbacks show the evaluation better than Lightning's own table
            return settings

    class Plan(CLI):
        """Parses what ``fit`` would, and prints what it would take instead of doing it."""

        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            super().add_arguments_to_parser(parser)
            parser.add_argument("--json", action="store_true", help="Print bytes as JSON.")

        def before_instantiate_classes(self) -> None:
            pass

        def instantiate_classes(self) -> None:
            from sdar_pl.commands.plan import plan

            found = plan(self.config)
            print(found.as_json() if self.config.json else found)

    torch.set_float32_matmul_precision("high")
    try:
        (Plan if planning else CLI)(
            SDARModule,
            RolloutDataModule,
            trainer_defaults=TRAINER_DEFAULTS,
            save_config_callback=SaveConfigCallback,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_class=Parser,
            parser_kwargs={"prog": "python -m sdar_pl", "description": DESCRIPTION},
            run=not planning,
            args=arguments,
        )
    except ArgumentError as error:
        raise UserError(shorten(str(error))) from error
