"""``python -m sdar_pl serve --config file.yaml``: the command that serves a run's policy on vLLM, for other machines.

    python -m sdar_pl serve --config run.yaml                # prints it
    python -m sdar_pl serve --config run.yaml --start        # runs it in this process's place

It is the command that VLLMEngine runs without ``servers``, with the flags that the policy needs.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import Any

from sdar_pl.commands.lightning_cli import CommandLine, launch
from sdar_pl.datamodule import RolloutDataModule
from sdar_pl.engines.vllm.launch import ENVIRONMENT, command_line
from sdar_pl.errors import UserError
from sdar_pl.module import SDARModule
from sdar_pl.policy import LoRA, Policy
from sdar_pl.runtime.config_files import add_places


def main(arguments: Sequence[str]) -> int:
    """The subcommand → exit status. Raises ``UserError``."""
    with add_places(arguments):
        launch(
            ServeCommandLine,
            SDARModule,
            RolloutDataModule,
            arguments,
            prog="python -m sdar_pl serve",
            description="The command that serves the policy of ``fit`` with the same arguments on vLLM.",
            subcommands=False,
        )
    return 0


class ServeCommandLine(CommandLine):
    """Parses what ``fit`` would, and prints or runs vLLM's command."""

    def add_arguments_to_parser(self, parser: Any) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--start", action="store_true", help="Run the command instead of printing it.")
        parser.add_argument("--host", type=str, default="0.0.0.0", help="Address that the server listens on.")
        parser.add_argument("--port", type=int, default=8000, help="Its port.")

    def instantiate_classes(self) -> None:
        command = [*served(self.config), "--host", self.config.host, "--port", str(self.config.port)]
        if not self.config.start:
            print(" ".join([*(f"{name}={value}" for name, value in ENVIRONMENT.items()), shlex.join(command)]))
            return
        try:
            os.execvpe(command[0], command, {**os.environ, **ENVIRONMENT})
        except OSError as error:
            raise UserError(
                f"data.engine.command: cannot run {command[0]!r} ({error.strerror}); name vLLM's command, or the "
                "Python of its environment"
            ) from error


def served(config: Any) -> list[str]:
    """vLLM's command line for a parsed ``fit`` configuration. Raises ``UserError``."""
    engine, policy = config.data.engine, config.model.policy.init_args
    options = vars(engine.init_args) if engine.class_path.endswith("VLLMEngine") else {}
    lora = LoRA(**vars(policy.lora)) if policy.lora else None
    made = Policy(**{**vars(policy), "lora": lora})
    return command_line(
        made,
        options.get("command") or ["vllm", "serve"],
        options.get("arguments") or [],
        options.get("max_model_len"),
    )
