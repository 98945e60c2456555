"""The run folder, the checkpoint that ``--ckpt_path`` means, and the command that resumes a run.

Rank 0 decides. The ranks that it starts read the decision from environment variables (processes.py).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sdar_pl.errors import UserError
from sdar_pl.runtime.advice import command
from sdar_pl.runtime.checkpoint_files import newest_good
from sdar_pl.runtime.processes import CHECKPOINT, GUARD, LEADER, RUN_FOLDER
from sdar_pl.runtime.run_lock import LOCK, FolderInUseError, empty, folder_of_launch, locked, rank_of_launch


def run_folder(config: Any, resumed: str | None, until_end: ExitStack, training: bool = True) -> Path:
    """Choose and create the folder that this run writes to. A new run gets a free name: ``mine``, ``mine-2``, …

    Args:
        config: the subcommand's configuration.
        resumed: the checkpoint to go on from: a path, "last", "best" or None.
        until_end: holds the lock of the folder (run_lock.py), and is closed when the run has ended.
        training: ``fit``, which needs the folder for itself. An evaluation may write beside a training.

    Raises ``UserError`` if the folder cannot be written to or is in use, or if ``resumed`` names a run that does not
    exist.
    """
    if os.environ.get(RUN_FOLDER) and os.environ.get(LEADER) != str(os.getpid()):
        return Path(os.environ[RUN_FOLDER])
    root = Path(config.trainer.default_root_dir)
    files = config.get("config") or []
    name = config.get("run") or (Path(str(files[0])).stem if files else "run")
    folder = _resumed_folder(root / name, resumed) if resumed else None
    try:
        if folder is None:
            folder = folder_of_launch(_names(root / name)) if rank_of_launch() else _new_folder(root / name, until_end)
        elif training and not rank_of_launch():
            until_end.enter_context(locked(folder))
    except FolderInUseError as error:
        raise UserError(f"ckpt_path: {error}, which writes to it; wait for its end, or stop it") from error
    except OSError as error:
        raise UserError(
            f"trainer.default_root_dir: cannot write to {folder or root / name} ({error.strerror}); give a folder that "
            "can be written"
        ) from error
    os.environ[RUN_FOLDER] = str(folder)
    return folder


def _resumed_folder(named: Path, resumed: str) -> Path | None:
    """The folder of the run that a checkpoint belongs to; None for a checkpoint outside of run folders.

    "last" and "best" are of the run ``named``. Of several with this name (``mine``, ``mine-2``, …) the run with the
    newest checkpoint is meant.
    """
    if resumed in ("last", "best"):
        same_name = re.compile(re.escape(named.name) + r"(-\d+)?")
        files = named.parent.glob("*/checkpoints/*.ckpt")
        saved = [path for path in files if same_name.fullmatch(path.parent.parent.name) and path.is_file()]
        if not saved:
            raise UserError(
                f"ckpt_path: no earlier run {named.name!r} with a checkpoint below {named.parent}; start without it"
            )
        return max(saved, key=lambda path: path.stat().st_mtime).parent.parent
    if Path(resumed).parent.name != "checkpoints":
        return None
    if not Path(resumed).parent.is_dir():
        newest_good(Path(resumed))  # raises the error of a file that is not there
    return Path(resumed).parent.parent


def _new_folder(named: Path, until_end: ExitStack) -> Path:
    """Make the first free folder of ``named``'s names, and hold its lock.

    Of two runs that start at the same moment one gets the lock of a folder; the other takes the next name. A link is
    no free name: a run writes into a folder of its own.
    """
    made = [folder for folder in named.parents if not folder.exists()]
    until_end.callback(_remove_empty, made)
    for folder in _names(named):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
        if folder.is_symlink() or not folder.is_dir() or not empty(folder):
            continue
        with ExitStack() as held:
            try:
                held.enter_context(locked(folder))
            except (FolderInUseError, FileNotFoundError):  # the holder before may have removed it
                continue
            if empty(folder):
                until_end.push(held.pop_all())
                return folder
    raise AssertionError("there is always a next name")


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove the folders, the innermost first, that hold nothing: a refused run leaves none behind."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def checkpoint_path(folder: Path, wanted: str) -> str:
    """The file that ``--ckpt_path`` means; "last" and "best" are the run's. Raises ``UserError`` if it is not valid."""
    if not GUARD.is_child:
        named = folder / "checkpoints" / f"{wanted}.ckpt" if wanted in ("last", "best") else Path(wanted)
        os.environ[CHECKPOINT] = str(newest_good(named))
    return os.environ[CHECKPOINT]


def resume_command(folder: Path, name: str = "fit") -> str:
    """How to go on with a run that has ended early, as a sentence: with the command, once there is a checkpoint."""
    config, last = folder / "config.yaml", folder / "checkpoints" / "last.ckpt"
    if not (config.exists() and last.exists()):
        return "There is no checkpoint yet: start again with the same command"
    return f"Go on with: {command(name, '--config', config, '--ckpt_path', last)}"


def _names(path: Path) -> Iterator[Path]:
    """``path``, ``path-2``, ``path-3``, …"""
    yield path
    number = 2
    while True:
        yield path.with_name(f"{path.name}-{number}")
        number += 1


def forget_unused(folder: Path) -> None:
    """Remove what a run writes at its start from the folder of one that ended before it had played or logged."""
    ours = os.environ.get(RUN_FOLDER) == str(folder) and not GUARD.is_child
    files = [path for path in folder.iterdir() if path.name != LOCK] if ours else []
    started = [
        path
        for path in files
        if path.name in ("config.yaml", "hparams.yaml") or path.name.startswith("events.out.tfevents.")
    ]
    if files and len(started) == len(files):
        for path in started:
            path.unlink()
