"""Dropped groups that are kept for the distillation alone (SKALD, 2608.09826): their numbers, their place in the loss.

Dynamic sampling drops groups whose rewards are all equal; SKALD finds most of its gain of distillation in such groups.
Kept, they have no advantage, no reference KL and no entropy bonus, and the means of these parts do not count them: the
rest of the loss is that of dynamic sampling.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sdar_pl.batch import Batch
from sdar_pl.runtime.ranks import all_gather, all_sum, world
from sdar_pl.types import Episode


def renumbered(episodes: Iterable[Episode], round_: int, count: int) -> list[Episode]:
    """The episodes of groups that were dropped in a round (from 0), as groups of their own.

    Group g of the ``count`` groups of all ranks becomes g + count·(round + 1), because the refill has its number.
    """
    return [replace(episode, group=episode.group + count * (round_ + 1)) for episode in episodes]


def is_kept(group: int, count: int) -> bool:
    """Whether a group is kept for the distillation alone."""
    return group >= count


def set_apart(batches: Sequence[Batch], accumulate: int, count: int) -> list[Batch]:
    """The micro-batches with ``learns`` and the totals of the rows that learn, if any rank has kept groups. Collective.

    Args:
        batches: the iteration's micro-batches on this rank.
        accumulate: micro-batches of an optimizer step.
        count: groups of the iteration, over all ranks.
    """
    learns = [(batch.groups < count).float() for batch in batches]
    if not any(all_gather(any(bool((1 - part).any()) for part in learns))):
        return list(batches)
    masks = [batch.mask * part[:, None] for batch, part in zip(batches, learns, strict=True)]
    steps = [masks[first : first + accumulate] for first in range(0, len(masks), accumulate)]
    tokens = all_sum([sum(float(mask.sum()) for mask in step) for step in steps])
    rows = all_sum([sum(float(mask.any(1).sum()) for mask in step) for step in steps])
    return [
        replace(
            batch,
            learns=part,
            learning_tokens=tokens[number // accumulate] / world(),
            learning_rows=rows[number // accumulate] / world(),
        )
        for number, (batch, part) in enumerate(zip(batches, learns, strict=True))
    ]
