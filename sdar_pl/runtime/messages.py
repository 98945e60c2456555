"""Messages of the command line: user errors on one line that names file and key; other libraries' noise silenced."""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import yaml

from sdar_pl.errors import UserError
from sdar_pl.runtime.words import one_line, shown


class PlainParser(argparse.ArgumentParser):
    """Raises ``UserError`` with the name of the subcommand, instead of printing usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog.split()[-1]}: {message}")


@contextlib.contextmanager
def add_file_names(arguments: Sequence[str]) -> Iterator[None]:
    """Inside, a ``UserError`` that quotes a key gets the name of the ``--config`` file that sets it.

    Raises ``UserError`` for a file that is missing or is not a YAML mapping.
    """
    files = read_configs(arguments)
    try:
        yield
    except UserError as error:
        raise UserError(add_file_name(str(error), files, arguments)) from error


def read_configs(arguments: Sequence[str]) -> dict[str, Any]:
    """The contents of the ``--config`` files, by name. Raises ``UserError`` for a file that is not a YAML mapping."""
    pairs = zip(arguments, [*arguments[1:], ""], strict=True)
    named = [after if word in ("--config", "-c") else word.partition("=")[2] for word, after in pairs
             if word in ("--config", "-c") or word.startswith("--config=")]  # fmt: skip
    files = {}
    for name in named:
        files[name] = read_yaml(Path(name), "--config")
        if not isinstance(files[name], dict):
            raise UserError(f"--config {name}: holds no keys; look at configs/quickstart.yaml for an example")
    return files


def read_yaml(path: Path, option: str) -> Any:
    """The content of the YAML file that a command line ``option`` names. Raises ``UserError`` if it cannot be read."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{option} {path}: {reason}; name a YAML file") from error
    except yaml.YAMLError as error:
        raise UserError(f"{option} {path}: not valid YAML: {error}") from error


def add_file_name(message: str, files: dict[str, Any], arguments: Sequence[str]) -> str:
    """Add the name of the file that sets the key which ``message`` quotes, unless a command line option sets it."""
    options = {word.partition("=")[0] for word in arguments}
    for quoted, first in re.findall(r"[\"'](\w+(?:\.\w+)+)[\"']|^(\w+(?:\.\w+)+)", message):
        key = quoted or first
        if f"--{key}" in options:
            return message
        path = key.split(".")
        for name, content in reversed(files.items()):
            for part in path:
                content = content.get(part) if isinstance(content, dict) and part in content else None
            if content is not None:
                return f"{message} (in {name})"
    return message


def shorten(message: str) -> str:
    """Cut jsonargparse's message of a parsing error down to one line: the key and its problem."""
    lines = [line.strip(" -\t") for line in message.splitlines() if line.strip(" -\t")]
    problem = re.sub(r"^Parser key \"?([^\":]+)\"?:?", r"\1:", " ".join(lines))
    return problem[:600]


def problem_of_file(error: OSError, folder: str | None) -> str:
    """The problem of a file of the run ``folder`` with the remedy, or "" if the error is about something else."""
    file = error.filename2 or error.filename
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return f"{file or folder}: {error.strerror}; make room, or give a folder that can be written"
    if not folder or not file or not Path(os.path.abspath(str(file))).is_relative_to(os.path.abspath(folder)):
        return ""
    reason = "it is a symbolic link, which a run does not follow" if error.errno == errno.ELOOP else error.strerror
    return f"{file}: {reason}; move it away"


def user_error_behind(error: BaseException) -> UserError | None:
    """The ``UserError`` among the causes of ``error``, or None.

    For an optional part (``Distillation | None``), jsonargparse reports every union member that failed.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__
    return cause


def print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an unexpected error as Python does, with the control characters of its message escaped."""
    lines = "".join(traceback.format_exception(kind, error, trace)).split("\n")
    print("\n".join(shown(line) for line in lines), end="", file=sys.stderr)


def _was_asked_for(record: logging.LogRecord) -> bool:
    """Whether Lightning logs a warning, or what a callback or profiler of the configuration reports."""
    return record.levelno >= logging.WARNING or bool({"callbacks", "profilers"} & set(Path(record.pathname).parts))


def quieten() -> None:
    """Silence messages of other libraries that no user can act on; print every other warning on one line."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {one_line(message)}\n"
    sys.excepthook = print_traceback
    # Threads that wait give up their core: beside any other busy process, spinning ones slow a run down several times.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    for name, level in {
        "lightning.pytorch": logging.INFO,
        "lightning.fabric": logging.WARNING,
        "lightning.fabric.utilities.seed": logging.WARNING,
        "bitsandbytes": logging.ERROR,
    }.items():
        logging.getLogger(name).setLevel(level)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_was_asked_for)
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
