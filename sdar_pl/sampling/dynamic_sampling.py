"""Dynamic sampling (DAPO, 2503.14476): groups whose rewards are all equal give way to others.

Their advantages are 0, so that they teach the policy loss nothing and only thin out what the others teach. They are
dropped, and other tasks are rolled out in their place, up to ``max_refills`` times; a place that is still without
different rewards then stays empty. What is dropped is dropped whole: its distillation and its reference KL, too, where
the objective has these – the gate works on groups of equal rewards as on any other.

Left out: sampling more groups than are needed ahead of time, as DAPO does to keep its engine busy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from sdar_pl.errors import UserError
from sdar_pl.types import Episode

#: (round, places to fill) → what was played; round 0 is the iteration's own
Roll = Callable[[int, Sequence[int]], list[Episode]]


@dataclass
class Sampled:
    """What one rank rolled out for an iteration."""

    episodes: list[Episode] = field(default_factory=list)  # to train on
    dropped: list[Episode] = field(default_factory=list)  # of groups whose rewards are all equal
    failed: list[Episode] = field(default_factory=list)
    dropped_groups: int = 0
    refills: int = 0  # groups rolled out in the place of others


def check(max_refills: int, group_size: int) -> None:
    """Raises ``UserError`` where there is nothing to be refilled."""
    if max_refills < 0:
        raise UserError(f"data.max_refills: {max_refills} must be 0 or more")
    if max_refills and group_size < 2:
        raise UserError(
            "data.max_refills: rewards in a group of one never differ; raise data.group_size or set it to 0"
        )


def sample(roll: Roll, places: Iterable[int], max_refills: int) -> Sampled:
    """Fill every place with a group. ``max_refills`` 0 takes all groups as they come.

    A place is filled without regard to the others (tasks.py), so ranks need not agree on anything.
    """
    found, waiting = Sampled(), list(places)
    for number in range(max_refills + 1):
        found.refills += len(waiting) if number else 0
        played = roll(number, waiting)
        found.failed += [episode for episode in played if episode.failed]
        usable = [episode for episode in played if episode.turns and not episode.failed]
        flat = [place for place in waiting if len({e.reward for e in usable if e.group == place}) < 2]
        waiting = flat if max_refills else []
        found.episodes += [episode for episode in usable if episode.group not in waiting]
        found.dropped += [episode for episode in usable if episode.group in waiting]
        found.dropped_groups += len(waiting)
        if not waiting:
            break
    found.episodes.sort(key=lambda episode: (episode.group, episode.index))
    return found
