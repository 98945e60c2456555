"""Command line: ``python -m sdar_pl {fit,validate,test,predict} --config file.yaml``, and the commands of ``COMMANDS``.

The configuration's keys are the constructors' own arguments (``--help`` and ``--print_config`` show them). A run writes
below ``<trainer.default_root_dir>/<run>``: metrics.csv, TensorBoard events, config.yaml, episodes.jsonl, checkpoints/,
adapter/. User errors print one line and exit with status 2. Signals and dead ranks are handled in
runtime/processes.py, Lightning's part of the command line is commands/lightning_cli.py.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from sdar_pl import __version__
from sdar_pl.errors import UserError
from sdar_pl.runtime.config_files import add_places
from sdar_pl.runtime.messages import problem_of_file, quieten
from sdar_pl.runtime.processes import GUARD, RUN_FOLDER, Stopped, print_line
from sdar_pl.runtime.words import one_line

#: the trainer's commands
SUBCOMMANDS = ("fit", "validate", "test", "predict")
#: commands that are not the trainer's → what each is for; ``a-command`` is ``main`` in sdar_pl/commands/a_command.py
COMMANDS = {
    "warmup": "supervised fine-tuning before fit",
    "plan": "memory of a run from its configuration",
    "play": "an agent, or you, in the terminal",
    "compare": "methods on paired seeds",
    "report": "runs as one HTML page",
    "serve": "vLLM's command for a run's policy",
    "export": "a checkpoint for other tools",
    "check-env": "an environment held to its contract",
    "serve-retriever": "passages for Search-QA over HTTP",
}


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line (``args``, or ``sys.argv``) and return the exit status."""
    arguments = list(sys.argv[1:] if args is None else args)
    if arguments[:1] == ["--version"]:
        print(f"sdar_pl {__version__}")
        return 0
    quieten()
    try:
        refuse_unknown_command(arguments)
        if arguments[0] in COMMANDS:
            return command(arguments[0], arguments[1:])
        with GUARD.active(), add_places(arguments):
            train(arguments)
        return 0
    except UserError as error:
        GUARD.failed(error)
        return fail(str(error))
    except (Stopped, KeyboardInterrupt) as error:
        print_line(f"stopped. {GUARD.resume}".rstrip())
        return 128 + getattr(error, "signal", 2)
    except Exception as error:
        if GUARD.signal_received:  # the error comes from the ranks that were ended
            print_line(f"stopped. {GUARD.resume}".rstrip())
            return 128 + GUARD.signal_received
        GUARD.failed(error)
        if isinstance(error, OSError) and (problem := problem_of_file(error, os.environ.get(RUN_FOLDER))):
            return fail(f"{problem}. {GUARD.resume}")
        raise


def refuse_unknown_command(arguments: Sequence[str]) -> None:
    """Raises ``UserError`` where no subcommand stands first. An option there is left to the parser (``--help``)."""
    names = [*SUBCOMMANDS, *COMMANDS]
    if not arguments:
        raise UserError(f"no command; name one of {', '.join(names)}; --help explains them")
    first = arguments[0]
    if not first.startswith("-") and first not in names:
        close = difflib.get_close_matches(first, names, n=1)
        wanted = f"did you mean {close[0]}?" if close else f"name one of {', '.join(names)}"
        raise UserError(f"{first!r}: no such command; {wanted}")


def command(name: str, arguments: Sequence[str]) -> int:
    """Run one of ``COMMANDS`` and return its exit status."""
    module = importlib.import_module(f"sdar_pl.commands.{name.replace('-', '_')}")
    status: int = module.main(arguments)
    return status


def train(arguments: Sequence[str]) -> None:
    """Run one of the trainer's subcommands. The imports wait until the arguments' files have been read."""
    from sdar_pl import callbacks
    from sdar_pl.commands.lightning_cli import TrainerCommandLine, launch
    from sdar_pl.datamodule import RolloutDataModule
    from sdar_pl.module import SDARModule

    others = "; ".join(f"'{name}': {purpose}" for name, purpose in COMMANDS.items())
    launch(
        TrainerCommandLine,
        SDARModule,
        RolloutDataModule,
        arguments,
        description=f"Train LLM agents with SDAR, GRPO and their family. Further commands, each with its own --help: "
        f"{others}. '--version' prints the version.",
        default_callbacks=callbacks.DEFAULT,
    )


def fail(message: str) -> int:
    """Print an error on one line and return the exit status of a user error."""
    print(f"error: {one_line(message)}", file=sys.stderr)
    return 2
