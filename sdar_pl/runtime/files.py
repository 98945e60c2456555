"""Atomic writes: a file or folder has its old content or its new one under its name, never a part.

Symbolic links are not followed: a link in place of a file or folder is replaced (``replacing``) or refused
(``writing``), and its target is left alone. Links in the folders above are the user's own and are followed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO, cast

AT_FDCWD, RENAME_EXCHANGE = -100, 2


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a free name beside ``path``. The file or folder made there takes the place of ``path`` after the block.

    A file, and every file of a folder, is flushed to the disk first. An exception in the block leaves ``path`` as it
    was. Linux exchanges two folders in one step; elsewhere ``path`` is missing between two renames. Raises ``OSError``
    where the disk takes no more.
    """
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove(partial)
    try:
        yield partial
        is_folder = partial.is_dir()
        for written in [path for path in partial.rglob("*") if path.is_file()] if is_folder else [partial]:
            with written.open("rb") as file:
                os.fsync(file.fileno())
        if is_folder:
            _replace_folder(partial, path)
        else:
            os.replace(partial, path)
    finally:
        remove(partial)


def writing(path: Path, mode: str) -> TextIO:
    """Open a text file to write ("w") or append ("a"), in UTF-8. Raises ``OSError`` (ELOOP) for a symbolic link.

    A lone surrogate, which UTF-8 lacks, is written with JSON's own escape.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, 0o666)

    return cast("TextIO", open(path, mode, encoding="utf-8", errors="backslashreplace", opener=opener))


def _replace_folder(new: Path, path: Path) -> None:
    """Give the folder ``new`` the name ``path``; what was there has the name ``new`` or none afterwards."""
    if not os.path.lexists(path):
        os.rename(new, path)
    elif not _exchange(new, path):
        old = path.with_name(f".{path.name}.old")
        remove(old)
        os.rename(path, old)
        os.rename(new, path)
        remove(old)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step (Linux, renameat2) → whether the system and the file system can."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    return bool(rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0)


def remove(path: Path) -> None:
    """Remove a file, a folder with all that it holds, or a link; nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
