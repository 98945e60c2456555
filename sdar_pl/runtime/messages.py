"""Messages of the command line: user errors on one line; other libraries' noise silenced."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
import traceback
import warnings
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from sdar_pl.errors import UserError
from sdar_pl.runtime.words import one_line, shown


class PlainParser(argparse.ArgumentParser):
    """Raises ``UserError`` with the name of the subcommand, instead of printing usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog.split()[-1]}: {message}")


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
