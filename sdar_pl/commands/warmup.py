"""``python -m sdar_pl warmup --config file.yaml``: supervised fine-tuning on demonstrations, before ``fit``.

    python -m sdar_pl warmup --config configs/warmup/household.yaml
    python -m sdar_pl export --ckpt_path runs/household/checkpoints/best.ckpt --out my-model --merge
    python -m sdar_pl fit --config configs/quickstart.yaml --model.policy.model my-model

The run folder, checkpoints, ``--ckpt_path``, signals, strategies and loggers are those of ``fit``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from sdar_pl import callbacks
from sdar_pl.commands.lightning_cli import TrainerCommandLine, launch
from sdar_pl.runtime.config_files import add_places
from sdar_pl.runtime.processes import GUARD
from sdar_pl.runtime.run_folder import resume_command
from sdar_pl.warmup import DemonstrationDataModule, WarmupModule

PROG = "python -m sdar_pl warmup"


def main(arguments: Sequence[str]) -> int:
    """The subcommand → exit status. Raises ``UserError``."""
    with GUARD.active(), add_places(arguments):
        launch(
            WarmupCommandLine,
            WarmupModule,
            DemonstrationDataModule,
            ["fit", *arguments],
            prog=PROG,
            description="Supervised fine-tuning on demonstrations, before reinforcement learning.",
            default_callbacks=callbacks.WARMUP,
        )
    return 0


class WarmupCommandLine(TrainerCommandLine):
    """The arguments of ``fit``, with a warm-up's module and datamodule."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {"fit": TrainerCommandLine.subcommands()["fit"]}

    def add_arguments_to_parser(self, parser: Any) -> None:
        parser.add_argument(
            "--run", type=str | None, default=None, help="Name of the run folder (default: the config file's)."
        )
        parser.link_arguments("model.policy", "data.policy", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=lambda seed: int(seed or 0))

    def before_instantiate_classes(self) -> None:
        super().before_instantiate_classes()
        GUARD.advise = partial(resume_command, self.run_folder, "warmup")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **options: Any) -> Any:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **options)
        parser.usage = f"{PROG} [options]"
        return parser
