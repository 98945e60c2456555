"""Which tasks are played, and the random streams of their episodes: functions of (seed, epoch, round) alone.

So there is no cursor and no random state to save, and neither the number of ranks nor what was played before matters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdar_pl.errors import UserError
from sdar_pl.types import Task

#: second word of every random seed, so that training and evaluation never share a stream
TRAIN, EVALUATE, SHUFFLE, UPDATE, REFILL = 0, 1, 2, 3, 4


def draw(total: int, epoch: int, count: int, seed: int, refill: int = 0) -> tuple[list[int], tuple[int, ...]]:
    """An iteration's tasks → (index of each group's task, first words of its episodes' random streams).

    ``total``: tasks of the split. ``refill``: 0 for the iteration's own round, then the rounds of dynamic sampling.
    """
    if refill:
        return refill_order(total, epoch, count, seed, refill), (seed, REFILL, epoch, refill)
    return task_order(total, epoch, count, seed), (seed, TRAIN, epoch)


def task_order(total: int, epoch: int, count: int, seed: int) -> list[int]:
    """Indices of the tasks of iteration ``epoch``: the split is gone through in a new random order each pass."""
    chosen: list[int] = []
    cursor = epoch * count
    while len(chosen) < count:
        number, offset = divmod(cursor, total)
        order = np.random.default_rng([seed, SHUFFLE, number]).permutation(total)
        taken = order[offset : offset + count - len(chosen)]
        chosen.extend(int(i) for i in taken)
        cursor += len(taken)
    return chosen


def refill_order(total: int, epoch: int, count: int, seed: int, number: int) -> list[int]:
    """Indices of the tasks of round ``number`` (from 1), one for each group, whether it is refilled or not.

    They are the split's other tasks in random order; none comes again before all have. The pass through the split
    that ``task_order`` makes is not touched.
    """
    own = set(task_order(total, epoch, count, seed))
    order = [int(i) for i in np.random.default_rng([seed, REFILL, epoch]).permutation(total)]
    others = [i for i in order if i not in own] or order
    first = (number - 1) * count
    return [others[place % len(others)] for place in range(first, first + count)]


def panel(tasks: Sequence[Task], count: int | None) -> list[Task]:
    """``count`` tasks of a split (None: all), the same for every seed. Raises ``UserError`` if it has not so many."""
    if count is None:
        return list(tasks)
    if not 1 <= count <= len(tasks):
        raise UserError(f"data.panel_tasks: {count} is not between 1 and the split's {len(tasks)} tasks")
    chosen = np.random.default_rng([EVALUATE]).choice(len(tasks), count, replace=False)
    return [tasks[int(i)] for i in np.sort(chosen)]
