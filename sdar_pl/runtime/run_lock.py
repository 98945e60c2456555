"""The lock of a run folder, so that one process at a time writes to it.

The lock is the kernel's (flock on the file ``.lock``), which releases it when the process ends, however it ends. Rank 0
holds it for all ranks. Where another launcher starts the ranks (torchrun, SLURM), they find rank 0's folder by the
launch that ``.lock`` names.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from sdar_pl.errors import UserError

LOCK = ".lock"
#: what the ranks of one launch by torchrun or SLURM have in common
LAUNCH = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "SLURM_JOB_ID", "SLURM_STEP_ID")


class FolderInUseError(Exception):
    """Another process holds the lock of a folder. The text names the folder and the process."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A block in which this process holds the lock of ``folder``.

    A folder that is left without a file is removed. Warns where the file system has no locks (some network file
    systems). Raises ``FolderInUseError``, and ``OSError`` if the folder cannot be written to.
    """
    # O_NOFOLLOW: in a folder that others can write to, .lock may be a link to a file of this user's.
    file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderInUseError(f"{folder} is in use by {_holder(folder)}") from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
                raise
            warnings.warn(
                f"{folder}: its file system has no locks ({error.strerror}); let no other run write to this folder",
                stacklevel=3,
            )
        if not _is(folder / LOCK, file):  # the holder before has removed an empty folder in the meantime
            raise FolderInUseError(f"{folder} is in use by another process")
        note = {"process": os.getpid(), "host": socket.gethostname(), "launch": launch()}
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(note).encode(), 0)
        try:
            yield
        finally:
            if empty(folder):
                (folder / LOCK).unlink(missing_ok=True)
                folder.rmdir()
    finally:
        os.close(file)


def empty(folder: Path) -> bool:
    """Whether a folder is there and holds nothing, or ``.lock`` alone."""
    return folder.is_dir() and all(path.name == LOCK for path in folder.iterdir())


def launch() -> str:
    """The launch of torchrun or SLURM that this process belongs to; "" for a process that was started alone."""
    return " ".join(value for name in LAUNCH if (value := os.environ.get(name)))


def rank_of_launch() -> int:
    """This process's rank where another launcher has started it; 0 for a process that was started alone."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)


def folder_of_launch(names: Iterator[Path], seconds: float = 120) -> Path:
    """Wait for the folder that rank 0 of this launch has locked: one of ``names``, taken one after the other."""
    ends = time.monotonic() + seconds
    tried = [next(names)]
    while time.monotonic() < ends:
        for path in tried:
            if _note(path).get("launch") == launch() and _is_held(path):
                return path
        if tried[-1].exists():
            tried.append(next(names))
        else:
            time.sleep(0.2)
    raise UserError(
        f"trainer.default_root_dir: rank 0 of this launch has no run folder like {tried[0]} that this rank can see; "
        "give a folder that all nodes share"
    )


def _is(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _is_held(folder: Path) -> bool:
    file = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # also where the file system has no locks
        return True
    finally:
        os.close(file)
    return False


def _note(folder: Path) -> dict[str, object]:
    try:
        note = json.loads((folder / LOCK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _holder(folder: Path) -> str:
    note = _note(folder)
    return f"process {note['process']} on {note['host']}" if {"process", "host"} <= note.keys() else "another process"
