"""Anomalies: optimizer steps that are skipped because loss or gradient is not finite, and the rows of these steps.

    anomalies/iteration-0003-step-1.json     (.rank1.json …: the rows of the other ranks)

A file holds ``iteration``, ``step`` (in the iteration, from 1), ``losses`` (one a micro-batch), ``gradients`` (names of
parameters whose gradient is not finite) and ``rows``: first those with a value that is not finite, which
``not_finite`` names. Files, rows and the tokens of a row are bounded in number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from sdar_pl.batch import PER_TOKEN, Row, uncollate
from sdar_pl.runtime.files import replacing
from sdar_pl.sampling.iteration import Iteration

#: limits of what is kept: files of one rank in a run folder, rows in a file, tokens in a row, names of parameters
FILES, ROWS, TOKENS, NAMES = 20, 8, 2048, 20
#: what is written of every token
COLUMNS = [name for name, dtype in PER_TOKEN.items() if dtype.is_floating_point and name != "teacher_top"]


class Anomalies:
    """What is known of the optimizer step in progress, until it is skipped or made."""

    def __init__(self) -> None:
        self.micro_batches: list[tuple[int, Tensor, Tensor, Tensor | None]] = []

    def begin_step(self) -> None:
        """Forget the step before."""
        self.micro_batches.clear()

    def saw(self, number: int, loss: Tensor, logprobs: Tensor, teacher: Tensor | None) -> None:
        """Remember the student's and the teacher's log-probs [B, R] in micro-batch ``number``, on their device."""
        self.micro_batches.append((number, loss.detach(), logprobs.detach(), teacher))

    @property
    def losses(self) -> list[Tensor]:
        """The losses of the micro-batches."""
        return [loss for _, loss, _, _ in self.micro_batches]

    def write(self, iteration: Iteration, path: Path, head: dict[str, Any]) -> bool:
        """Write the step's rows → whether there was room for another file of this rank, and space on the disk.

        Args:
            iteration: the rollouts that the micro-batches belong to.
            path: the file.
            head: ``iteration``, ``step`` and ``gradients``.
        """
        rank = path.name.partition(".")[2]
        kept = [other for other in path.parent.glob("*.json") if other.name.partition(".")[2] == rank]
        if path not in kept and len(kept) >= FILES:
            return False
        rows = sorted(self._rows(iteration), key=lambda row: not row["not_finite"])
        content = {
            **head,
            "losses": plain(map(float, self.losses)),
            "gradients": head["gradients"][:NAMES],
            "rows_of_the_step": len(rows),
            "rows": rows[:ROWS],
        }
        try:
            with replacing(path) as partial:
                partial.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")
        except OSError:
            return False
        return True

    def _rows(self, iteration: Iteration) -> Iterator[dict[str, Any]]:
        for number, _, logprobs, teacher in self.micro_batches:
            batch = iteration.batches[number]
            rows = uncollate(batch)
            places = [place for place, real in enumerate(batch.mask.bool().any(1).tolist()) if real]
            for place, row in zip(places, rows, strict=True):
                length = len(row.positions)
                columns = {name: getattr(row, name) for name in COLUMNS if getattr(row, name) is not None}
                columns["student_logprobs"] = logprobs[place, :length].tolist()
                if teacher is not None:
                    columns["teacher_logprobs"] = teacher[place, :length].tolist()
                yield {**_origin(row, iteration), "micro_batch": number, **_bounded(row, columns)}


def _origin(row: Row, iteration: Iteration) -> dict[str, Any]:
    episode = iteration.episodes[row.episode]
    return {"task": episode.task.id, "group": episode.group, "index": episode.index, "turns": sorted({*row.turns})}


def _bounded(row: Row, columns: dict[str, list[float]]) -> dict[str, Any]:
    """The names of the columns that are not finite, and the first ``TOKENS`` tokens of the row with all columns."""
    return {
        "not_finite": [name for name, values in columns.items() if not all(map(math.isfinite, values))],
        "tokens_of_the_row": len(row.tokens),
        "tokens": row.tokens[:TOKENS],
        "positions": row.positions[:TOKENS],
        **{name: plain(values[:TOKENS]) for name, values in columns.items()},
    }


def plain(values: Iterable[float]) -> list[float | str]:
    """Values as JSON has them: numbers with six decimals; "nan", "inf" and "-inf" as text."""
    return [round(value, 6) if math.isfinite(value) else str(value) for value in values]
