"""Figures of an iteration's episodes, for metrics.csv (docs/metrics.md)."""

from __future__ import annotations

from collections.abc import Iterator

from sdar_pl.runtime.ranks import world
from sdar_pl.runtime.words import metric_name
from sdar_pl.sampling.dynamic_sampling import equal_groups
from sdar_pl.sampling.iteration import Iteration
from sdar_pl.types import Episode


def panel_figures(episode: Episode) -> Iterator[tuple[str, float]]:
    """Names and values of an episode of a panel, whose mean over the panel is logged (after ``val/`` or ``test/``)."""
    yield "success", float(episode.success)
    yield "reward", episode.reward
    if episode.score is not None:
        yield "score", episode.score
    yield "turns", float(len(episode.turns))
    yield f"success/{metric_name(episode.task.kind)}", float(episode.success)


def figures(iteration: Iteration, refilled: bool, ahead: bool = False) -> Iterator[tuple[str, float]]:
    """Names and values on this rank, whose mean over all values and ranks is logged.

    Args:
        iteration: the iteration; dropped groups count, as they measure the policy.
        refilled: whether groups may be dropped and others rolled out instead.
        ahead: whether iterations are rolled out by the policy of one iteration before.
    """
    played = [*iteration.episodes, *iteration.dropped]
    for episode in played:
        yield "train/success", float(episode.success)
        yield "train/reward", episode.reward
        yield from ((f"reward/{metric_name(part)}", value) for part, value in episode.parts.items())
        if episode.score is not None:
            yield "train/score", episode.score
        yield "episode/turns", float(len(episode.turns))
        yield "rollout/overflow", float(episode.overflow)
        for turn in episode.turns:
            yield "train/valid_action", float(turn.valid)
    for equal in equal_groups(played):
        yield "train/equal_groups", float(equal)
    ranks = world()  # the mean over ranks, times their number, is the sum
    yield "rollout/failed", float(len(iteration.failed) * ranks)
    if ahead:
        yield "rollout/age", float(iteration.age)
    if refilled:
        yield "rollout/dropped_groups", float(iteration.dropped_groups * ranks)
        yield "rollout/refills", float(iteration.refills * ranks)
