"""The tasks of an iteration or a panel, and the random streams of episodes: functions of (seed, epoch, round) alone.

Hence a checkpoint holds no cursor and no random state, and neither the number of ranks nor earlier iterations matter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdar_pl.environments.base import Environment
from sdar_pl.environments.listing import refuse_bad_tasks
from sdar_pl.errors import UserError
from sdar_pl.types import Task

#: Second entry of every seed sequence (seed, PURPOSE, …): keeps training, evaluation and shuffling streams apart.
TRAIN, EVALUATE, SHUFFLE, UPDATE, REFILL, REFLECT = 0, 1, 2, 3, 4, 5


def draw(total: int, epoch: int, count: int, seed: int, refill: int = 0) -> tuple[list[int], tuple[int, ...]]:
    """The index of each group's task, and the beginning of its episodes' seed sequences.

    Args:
        total: number of tasks in the split.
        epoch: number of the iteration.
        count: groups an iteration.
        seed: the run's seed.
        refill: 0 for the iteration's own round, then the number of the refill (dynamic_sampling.py).

    Example:
        draw(total=100, epoch=7, count=2, seed=0) → ([41, 8], (0, TRAIN, 7)): group 1 plays task 8, and its episode 3
        samples from the stream (0, TRAIN, 7, 1, 3).
    """
    if refill:
        return refill_order(total, epoch, count, seed, refill), (seed, REFILL, epoch, refill)
    return task_order(total, epoch, count, seed), (seed, TRAIN, epoch)


def task_order(total: int, epoch: int, count: int, seed: int) -> list[int]:
    """Indices of the tasks of an iteration. Each pass through the split has a random order of its own."""
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
    """Indices of the tasks of refill ``number`` (from 1), one for each group, whether it is refilled or not.

    The tasks are the split's others in random order; none repeats before all have been drawn. ``task_order``'s passes
    through the split are not affected.
    """
    own = set(task_order(total, epoch, count, seed))
    order = [int(i) for i in np.random.default_rng([seed, REFILL, epoch]).permutation(total)]
    others = [i for i in order if i not in own] or order
    first = (number - 1) * count
    return [others[i % len(others)] for i in range(first, first + count)]


def optimizer_steps(count: int, epoch: int, steps: int, seed: int, rounds: int = 0) -> dict[int, int]:
    """The optimizer step of each of ``count`` groups: a random order, dealt out to ``steps`` steps in turn.

    With ``rounds``, also of the groups that were dropped in so many rounds and kept (kept_groups.py): the step of the
    group in whose place each was.

    The step of a row depends on its group alone and is hence the same for any number of ranks.
    """
    order = np.random.default_rng([seed, SHUFFLE, epoch]).permutation(count)
    return {int(group) + count * k: i % steps for k in range(rounds + 1) for i, group in enumerate(order)}


def tasks_of_split(environment: Environment, stage: str, split: str) -> Sequence[Task]:
    """The tasks of the split of a stage (train, validate, test). Raises ``UserError`` for one that does not exist."""
    try:
        return environment.tasks(split)
    except UserError as error:
        if f"no split {split!r}" not in str(error):
            raise
        key = "data.validation_split" if stage == "validate" else f"data.{stage}_split"
        raise UserError(f"{key}: {str(error).removeprefix('data.environment: ')}") from error


def refuse_bad_split(environment: Environment, stage: str, split: str) -> None:
    """Raises ``UserError`` for a split that does not exist, or with tasks that cannot be played."""
    tasks_of_split(environment, stage, split)
    refuse_bad_tasks(environment, split)


def choose_panel(tasks: Sequence[Task], count: int | None) -> list[Task]:
    """``count`` tasks of a split (None: all), the same for every seed. Raises ``UserError`` if there are fewer."""
    if count is None:
        return list(tasks)
    if not 1 <= count <= len(tasks):
        raise UserError(f"data.panel_tasks: {count} is not between 1 and the split's {len(tasks)} tasks")
    chosen = np.random.default_rng([EVALUATE]).choice(len(tasks), count, replace=False)
    return [tasks[int(i)] for i in np.sort(chosen)]


def update_seed(seed: int, epoch: int, rank: int) -> int:
    """Seed of torch's generator (dropout) for the update of an iteration on a rank."""
    return int(np.random.SeedSequence([seed, UPDATE, epoch, rank]).generate_state(1)[0])
