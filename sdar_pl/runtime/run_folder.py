"""The run folder, the checkpoint that ``--ckpt_path`` means, and the command that resumes a run.

Rank 0 decides. The ranks that it starts read the decision from environment variables (processes.py).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sdar_pl.errors import UserError
from sdar_pl.runtime.checkpoint_files import newest_good
from sdar_pl.runtime.processes import CHECKPOINT, GUARD, RUN_FOLDER


def run_folder(config: Any, resumed: str | None) -> Path:
    """Choose and create the folder that this run writes to. A new run gets a free name: ``mine``, ``mine-2``, …

    Raises ``UserError`` if the folder cannot be written to, or if ``resumed`` names a run that does not exist.
    """
    if os.environ.get(RUN_FOLDER):
        return Path(os.environ[RUN_FOLDER])
    root = Path(config.trainer.default_root_dir)
    files = config.get("config") or []
    name = config.get("run") or (Path(str(files[0])).stem if files else "run")
    if resumed in ("last", "best"):
        saved = sorted(root.glob(f"{name}*/checkpoints/*.ckpt"), key=lambda path: path.stat().st_mtime)
        if not saved:
            raise UserError(f"ckpt_path: no earlier run {name!r} with a checkpoint below {root}; start without it")
        folder = saved[-1].parent.parent
    elif resumed and Path(resumed).parent.name == "checkpoints":
        folder = Path(resumed).parent.parent
    else:
        folder = next(path for path in _names(root / name) if not path.exists() or not any(path.iterdir()))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"trainer.default_root_dir: cannot write to {folder} ({error.strerror}); give a folder that can be written"
        ) from error
    os.environ[RUN_FOLDER] = str(folder)
    return folder


def checkpoint_path(folder: Path, wanted: str) -> str:
    """The file that ``--ckpt_path`` means; "last" and "best" are the run's. Raises ``UserError`` if it is not valid."""
    if not GUARD.is_child:
        named = folder / "checkpoints" / f"{wanted}.ckpt" if wanted in ("last", "best") else Path(wanted)
        os.environ[CHECKPOINT] = str(newest_good(named))
    return os.environ[CHECKPOINT]


def resume_command(folder: Path) -> str:
    """The command that resumes a run that has ended early, as a sentence."""
    config, last = folder / "config.yaml", folder / "checkpoints" / "last.ckpt"
    return f"Go on with: python -m sdar_pl fit --config {config} --ckpt_path {last}"


def _names(path: Path) -> Iterator[Path]:
    """``path``, ``path-2``, ``path-3``, …"""
    yield path
    number = 2
    while True:
        yield path.with_name(f"{path.name}-{number}")
        number += 1
