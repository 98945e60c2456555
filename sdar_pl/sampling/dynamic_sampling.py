"""roll_out(): an iteration's groups, with dynamic sampling (DAPO, 2503.14476) as an option.

Dynamic sampling drops a group in which the training rewards (without penalties) are all equal: its episodes have
advantage 0, so that the outcomes teach the policy loss nothing. Another task is rolled out in its place, up to
``max_refills`` times; a group that still has equal rewards then stays out.

A dropped group is dropped whole, with its distillation and its reference KL: the gate would have learnt from it. Or it
is kept for the distillation alone (kept_groups.py).

Left out: sampling more groups than needed ahead of time, as DAPO does to keep its engine busy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from sdar_pl.sampling.kept_groups import renumbered
from sdar_pl.types import Episode

#: (round, numbers of the groups to play) → their episodes. Round 0 is the iteration's own, the others are refills.
PlayGroups = Callable[[int, Sequence[int]], list[Episode]]


@dataclass
class Rollout:
    """One rank's episodes of an iteration.

    Args:
        episodes: the episodes to train on, sorted by group and index.
        dropped: episodes of groups whose rewards are all equal, unless they are kept.
        failed: episodes whose sessions failed too often.
        dropped_groups: number of groups dropped.
        refills: number of groups rolled out in place of dropped ones.
    """

    episodes: list[Episode] = field(default_factory=list)
    dropped: list[Episode] = field(default_factory=list)
    failed: list[Episode] = field(default_factory=list)
    dropped_groups: int = 0
    refills: int = 0


def equal_groups(episodes: Iterable[Episode]) -> list[bool]:
    """For each group that was played, whether its rewards are all equal."""
    rewards: dict[tuple[int, str], set[tuple[float, ...]]] = {}
    for episode in episodes:  # a refill has the number of the group in whose place it is
        rewards.setdefault((episode.group, episode.task.id), set()).add(episode.signal)
    return [len(seen) < 2 for seen in rewards.values()]


def roll_out(
    play_groups: PlayGroups, groups: Iterable[int], max_refills: int = 0, keep_of: int | None = None
) -> Rollout:
    """Play every group once; with ``max_refills``, replace groups whose rewards are all equal.

    Which task replaces a group depends on the group's number alone (tasks.py), so that no communication is needed.

    Args:
        play_groups: plays groups.
        groups: the numbers of this rank's groups.
        max_refills: number of rounds after the first.
        keep_of: keep dropped groups in ``episodes``, renumbered: the number of groups over all ranks. None: drop them.
    """
    rollout, waiting = Rollout(), list(groups)
    for round_ in range(max_refills + 1):
        rollout.refills += len(waiting) if round_ else 0
        played = play_groups(round_, waiting)
        rollout.failed += [episode for episode in played if episode.failed]
        good = [episode for episode in played if episode.turns and not episode.failed]
        equal = [group for group in waiting if len({e.signal for e in good if e.group == group}) < 2]
        waiting = equal if max_refills else []
        dropped = [episode for episode in good if episode.group in waiting]
        rollout.episodes += [episode for episode in good if episode.group not in waiting]
        if keep_of is None:
            rollout.dropped += dropped
        else:
            rollout.episodes += renumbered(dropped, round_, keep_of)
        rollout.dropped_groups += len(waiting)
        if not waiting:
            break
    rollout.episodes.sort(key=lambda episode: (episode.group, episode.index))
    return rollout
