"""Corpora: JSONL files with one passage a line, read by offset and never held in memory."""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sdar_pl.errors import UserError
from sdar_pl.retrieval.base import Passage, from_contents

#: what a line must be
FORM = "must be an object with id and contents, or id, title and text"

Offsets = npt.NDArray[np.int64]


class Corpus:
    """A file of lines ``{"id", "title", "text"}`` or ``{"id", "contents"}``; the k-th passage is read on access.

    Args:
        path: the file.
        offsets: byte position of every passage's line, as ``scan`` returns it.
    """

    def __init__(self, path: Path, offsets: Offsets) -> None:
        self.path, self.offsets = path, offsets
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, number: int) -> Passage:
        begin = int(self.offsets[number])
        end = self._bytes.find(b"\n", begin)
        return parse(self._bytes[begin : end if end >= 0 else len(self._bytes)], f"{self.path}")


def scan(path: Path, use: Callable[[Passage], None], progress: Callable[[int], None]) -> Offsets:
    """Read a corpus once, give every passage to ``use``, and return the positions of its lines.

    ``progress`` receives the number of bytes read so far. Raises ``UserError`` for a file that cannot be read or holds
    no passage, for a line that is not a passage, and for an id that occurs twice; each names its line.
    """
    offsets, digests, lines = list[int](), list[int](), list[int]()
    for number, offset, line in _lines(path):
        passage = parse(line, f"--corpus {path}: line {number}")
        use(passage)
        offsets.append(offset)
        lines.append(number)
        digests.append(int.from_bytes(blake2b(passage.id.encode(), digest_size=7).digest(), "big"))
        if len(offsets) % 4096 == 0:
            progress(offset)
    if not offsets:
        raise UserError(f"--corpus {path}: is empty; must hold at least one passage, one JSON object a line")
    _refuse_duplicates(path, np.array(digests), np.array(lines))
    return np.array(offsets, dtype=np.int64)


def parse(line: bytes, place: str) -> Passage:
    """A line → its passage. Raises ``UserError`` that begins with ``place``."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not JSON ({error}); {FORM}") from None
    if not isinstance(row, dict) or "id" not in row:
        raise UserError(f"{place}: no id; {FORM}")
    contents, title, text = row.get("contents"), row.get("title", ""), row.get("text")
    if isinstance(contents, str):
        return from_contents(str(row["id"]), contents)
    if not isinstance(text, str) or not isinstance(title, str):
        raise UserError(f"{place}: neither contents nor text; {FORM}")
    return Passage(str(row["id"]), title, text)


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(number from 1, byte position, bytes) of every line that is not blank."""
    try:
        with path.open("rb") as file:
            offset = 0
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, offset, line
                offset += len(line)
    except OSError as error:
        raise UserError(f"--corpus {path}: {error.strerror or error}; name a JSONL file of passages") from error


def _refuse_duplicates(path: Path, digests: npt.NDArray[np.int64], lines: npt.NDArray[np.int64]) -> None:
    order = np.argsort(digests, kind="stable")
    equal = np.flatnonzero(digests[order][1:] == digests[order][:-1])
    if len(equal):
        first, second = sorted((int(lines[order[equal[0]]]), int(lines[order[equal[0] + 1]])))
        raise UserError(f"--corpus {path}: lines {first} and {second} have the same id; ids must be unique")
