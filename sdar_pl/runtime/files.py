"""Atomic writes: a file or folder has its old content or its new one under its name, never a part."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a free name beside ``path``. The file or folder made there takes the place of ``path`` after the block.

    A file is flushed to the disk first. An exception in the block leaves ``path`` as it was. A folder is replaced in
    two steps, so ``path`` is missing for a moment. Raises ``OSError`` where the disk takes no more.
    """
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove(partial)
    try:
        yield partial
        if partial.is_dir():
            _remove(path)
        else:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
