"""Real ALFWorld games and the reference figures, from the folder beside the repository."""

from __future__ import annotations

import atexit
import gzip
import json
import shutil
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from helpers import CONFIGS, SHARED
from helpers.evidence import required

ARCHIVE = SHARED / "alfworld" / "json_2.1.1.tar.xz"


def games() -> Path:
    """A data folder with the two validation splits; skips the calling test where the archive is missing."""
    required(ARCHIVE, "real ALFWorld games; the archive of alfworld-download's json_2.1.1")
    return _unpacked()


def golden(name: str) -> Any:
    """A file of reference figures; skips the calling test where it is missing."""
    path = SHARED / "golden" / name
    required(path, "figures of the reference implementations")
    return json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())


def command(name: str, folder: Path, *arguments: str) -> list[str]:
    """Words of a command on configs/alfworld/tiny.yaml that trains and evaluates on the unpacked splits."""
    config = ["--config", str(CONFIGS / "alfworld" / "tiny.yaml"), "--trainer.default_root_dir", str(folder)]
    data = ["--data.environment.init_args.root", str(games()), "--data.train_split", "valid_unseen"]
    return [name, *config, *data, *arguments]


@cache
def _unpacked() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="alfworld"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with tarfile.open(ARCHIVE, "r|xz") as archive:
        for member in archive:
            if member.isfile() and "/valid_" in member.name:
                data = archive.extractfile(member)
                assert data is not None
                path = folder / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data.read())
    return folder
