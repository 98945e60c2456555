"""Iteration: what one rollout made, and its plain form for checkpoints.

A checkpoint inside an iteration holds the rollouts of all ranks, as tensors and JSON (``torch.load`` with
``weights_only`` reads nothing else). On another number of ranks the groups are dealt anew: groups stay whole.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch

from sdar_pl.batch import Batch, Row, uncollate
from sdar_pl.types import Episode, Observation, Task, Turn

#: fields of an Iteration that are lists of episodes
EPISODES = ("episodes", "failed", "dropped")


@dataclass
class Iteration:
    """What one rollout made: belongs to one epoch and one version of the policy."""

    epoch: int
    episodes: list[Episode]
    batches: list[Batch]
    accumulate: int  # micro-batches an optimizer step
    rollout_s: float = 0.0
    score_s: float = 0.0
    generated: int = 0
    prefilled: int = 0
    failed: list[Episode] = field(default_factory=list)
    dropped: list[Episode] = field(default_factory=list)  # played, but not trained on (dynamic_sampling.py)
    dropped_groups: int = 0
    refills: int = 0

    def plain(self) -> dict[str, Any]:
        """Tensors, numbers and bytes; ``from_plain`` takes it back."""
        known = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in EPISODES:
            words = json.dumps([asdict(episode) for episode in known[name]], default=lambda _: None).encode()
            known[name] = torch.frombuffer(bytearray(words), dtype=torch.uint8)
        known["batches"] = [_plain(batch) for batch in self.batches]
        return known

    @classmethod
    def from_plain(cls, known: dict[str, Any]) -> Iteration:
        """What ``plain`` gave, save the tasks' own ``data``: nobody plays them again."""
        read = dict(known)
        for name in EPISODES:
            read[name] = [_episode(words) for words in json.loads(known[name].numpy().tobytes())]
        read["batches"] = [_batch(values) for values in known["batches"]]
        return cls(**read)


def restore(ranks: Sequence[dict[str, Any]], rank: int, world: int) -> tuple[Iteration, list[Row]]:
    """What ``ranks`` have saved → one rank's share: the iteration as it was or, where the number of ranks is another,
    without batches and with the rows to make them of."""
    parts = [Iteration.from_plain(part) for part in ranks]
    return (parts[rank], []) if len(parts) == world else dealt(parts, rank, world)


def dealt(parts: Sequence[Iteration], rank: int, world: int) -> tuple[Iteration, list[Row]]:
    """One rank's share of an iteration that other ranks have played → (it without batches, its rows)."""
    episodes, failed, dropped, rows = list[Episode](), list[Episode](), list[Episode](), list[Row]()
    for part in parts:
        for row in (row for batch in part.batches for row in uncollate(batch)):
            if row.group % world == rank:
                row.episode += len(episodes)
                rows.append(row)
        episodes += part.episodes
        failed += [episode for episode in part.failed if episode.group % world == rank]
        dropped += [episode for episode in part.dropped if episode.group % world == rank]
    # Rows name their episodes by place: keep this rank's, in the order in which it would have played them.
    mine = [i for i, episode in enumerate(episodes) if episode.group % world == rank]
    mine.sort(key=lambda i: (episodes[i].group, episodes[i].index))
    place = {old: new for new, old in enumerate(mine)}
    for row in rows:
        row.episode = place[row.episode]
    rows.sort(key=lambda row: (row.episode, row.turns[:1]))
    iteration = Iteration(parts[0].epoch, [episodes[i] for i in mine], [], 1, failed=failed, dropped=dropped)
    if rank == 0:  # what is summed over ranks
        for name in ("generated", "prefilled", "dropped_groups", "refills"):
            setattr(iteration, name, sum(getattr(part, name) for part in parts))
    iteration.rollout_s, iteration.score_s = (max(getattr(p, n) for p in parts) for n in ("rollout_s", "score_s"))
    return iteration, rows


def _plain(batch: Batch) -> dict[str, Any]:
    reading = None if batch.reading is None else _plain(batch.reading)
    return {**vars(batch), "reading": reading}


def _batch(values: dict[str, Any]) -> Batch:
    reading = None if values["reading"] is None else _batch(values["reading"])
    return Batch(**{**values, "reading": reading})


def _episode(words: dict[str, Any]) -> Episode:
    turns = [Turn(**{**turn, "observation": _observation(turn["observation"])}) for turn in words["turns"]]
    return Episode(**{**words, "task": Task(**words["task"]), "first": _observation(words["first"]), "turns": turns})


def _observation(words: dict[str, Any]) -> Observation:
    return Observation(**{**words, "admissible": tuple(words["admissible"])})
