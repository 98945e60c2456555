"""Index folders: an index is built once from a corpus file, kept beside it, and built again when either changes."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sdar_pl.errors import UserError
from sdar_pl.retrieval.corpus import Corpus, Offsets
from sdar_pl.runtime.long_work import long_work

#: in an index folder: what it is an index of; the byte position of every line, as int64
FACTS, OFFSETS = "corpus.json", "offsets.bin"
#: receives the number of bytes of the corpus that are read
Shown = Callable[[int], None]
#: (corpus file, empty folder, progress) → positions of the lines, once the folder holds the index
Build = Callable[[Path, Path, Shown], Offsets]


def open_index(corpus: str, index: str | None, kind: str, build: Build, **facts: Any) -> tuple[Corpus, Path]:
    """The corpus's passages and the folder of its index, which is built where there is none that fits.

    Args:
        corpus: the JSONL file.
        index: the folder; None means the corpus's name with ``.kind`` behind it.
        kind: of the index.
        build: writes the index.
        facts: what the index depends on beside the corpus; JSON values.

    Raises ``UserError`` for a missing or bad corpus and for a folder that holds something else.
    """
    path = Path(corpus).expanduser()
    folder = Path(index).expanduser() if index else path.with_name(f"{path.name}.{kind}")
    if not path.is_file():
        raise UserError(f"--corpus {path}: no such file; name a JSONL file of passages")
    if folder.exists() and not (folder / FACTS).is_file():
        raise UserError(f"--index {folder}: is no index; name a folder that does not exist yet")
    with _locked(folder.with_name(folder.name + ".lock")):
        wanted = {**_facts(path), **facts}
        if not folder.exists() or json.loads((folder / FACTS).read_text(encoding="utf-8")) != wanted:
            _write(path, folder, wanted, build)
    return Corpus(path, np.memmap(folder / OFFSETS, dtype=np.int64, mode="r")), folder


def _facts(corpus: Path) -> dict[str, Any]:
    return {"format": 1, "corpus": corpus.name, "bytes": corpus.stat().st_size, "mtime_ns": corpus.stat().st_mtime_ns}


def _write(corpus: Path, folder: Path, facts: dict[str, Any], build: Build) -> None:
    """Write the index beside its place, and move it there when it is whole."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with long_work(f"indexing {corpus.name}", facts["bytes"]) as progress:
        offsets = build(corpus, partial, progress)
    offsets.tofile(partial / OFFSETS)
    (partial / FACTS).write_text(json.dumps(facts) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Only one process builds: the others wait and find the index."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
