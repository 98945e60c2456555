"""Rows → the micro-batches of an iteration, the same number for every optimizer step and rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sdar_pl.batch import Batch, Row, blank_row, collate, pack
from sdar_pl.runtime.ranks import all_gather, all_sum, world


def micro_batches(
    rows: Sequence[Row], *, step_of: Mapping[int, int], steps: int, budget: int, pad: int, reading: bool
) -> tuple[list[Batch], int]:
    """This rank's rows → (its micro-batches in order, how many make an optimizer step: 1 at least). Collective.

    ``step_of``: group → optimizer step. ``budget``: padded tokens of a micro-batch. ``reading``: each carries its rows
    as the teacher reads them. Where a rank has fewer than others, blank ones fill its steps.
    """
    of_step = [[row for row in rows if step_of[row.group] == step] for step in range(steps)]
    parts = [pack(chosen, budget) for chosen in of_step]
    accumulate = max(1, *all_gather(max(map(len, parts))))
    tokens = all_sum([float(sum(len(row.positions) for row in chosen)) for chosen in of_step])
    counts = all_sum([float(len(chosen)) for chosen in of_step])
    blank = [blank_row(next(iter(rows), None))]
    batches = []
    for part, total_tokens, total_rows in zip(parts, tokens, counts, strict=True):
        for chunk in part + [blank] * (accumulate - len(part)):
            batch = collate(chunk, pad)
            batch.reading = collate([row.as_teacher() for row in chunk], pad) if reading else None
            batches.append(replace(batch, total_tokens=total_tokens / world(), total_rows=total_rows / world()))
    return batches, accumulate
