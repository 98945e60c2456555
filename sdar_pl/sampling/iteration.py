"""Iteration: the rollouts of one epoch, and their form in checkpoints.

A checkpoint inside an iteration holds the rollouts of all ranks as tensors and JSON, because ``torch.load`` with
``weights_only`` reads nothing else. On another number of ranks the groups are redistributed; each stays whole.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from sdar_pl.batch import Batch, Row, uncollate
from sdar_pl.engines.base import Engine
from sdar_pl.errors import UserError
from sdar_pl.runtime import ranks
from sdar_pl.sampling.dynamic_sampling import Rollout
from sdar_pl.types import Episode, Observation, Task, Turn

#: Fields of an Iteration that are lists of episodes.
EPISODES = ("episodes", "failed", "dropped")


@dataclass
class Iteration:
    """One rank's rollouts of one epoch, scored: they belong to one version of the policy.

    Rollouts without ``batches`` are not scored yet.

    Args:
        epoch: number of the iteration, from 0.
        episodes: the episodes to train on.
        batches: the micro-batches of the update.
        accumulate: micro-batches of an optimizer step.
        rollout_s: seconds of the rollout; of one that was played ahead too.
        score_s: seconds of scoring.
        generated: tokens that the engine sampled.
        prefilled: prompt tokens that the engine read.
        failed: episodes whose sessions failed too often.
        dropped: episodes played but not trained on (dynamic_sampling.py).
        dropped_groups: number of groups dropped.
        refills: number of groups rolled out in place of dropped ones.
        age: updates since the weights that rolled out (``data.ahead``).
        restored: whether the iteration comes from a checkpoint.
    """

    epoch: int
    episodes: list[Episode]
    batches: list[Batch]
    accumulate: int
    rollout_s: float = 0.0
    score_s: float = 0.0
    generated: int = 0
    prefilled: int = 0
    failed: list[Episode] = field(default_factory=list)
    dropped: list[Episode] = field(default_factory=list)
    dropped_groups: int = 0
    refills: int = 0
    age: int = 0
    restored: bool = False

    @classmethod
    def of(cls, rollout: Rollout, engine: Engine, epoch: int, age: int, rollout_s: float) -> Iteration:
        """What ``engine`` has just rolled out, not scored yet."""
        return cls(
            epoch,
            batches=[],
            accumulate=1,
            age=age,
            rollout_s=rollout_s,
            generated=engine.generated,
            prefilled=engine.prefilled,
            **vars(rollout),
        )

    def to_plain(self) -> dict[str, Any]:
        """Tensors, numbers and bytes, from which ``from_plain`` restores the iteration."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in EPISODES:
            records = [asdict(episode) for episode in values[name]]
            text = json.dumps(records, default=lambda value: _list_of(value, keep=not self.batches)).encode()
            values[name] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        values["batches"] = [_batch_to_plain(batch) for batch in self.batches]
        return values

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Iteration:
        """The iteration that ``to_plain`` wrote, without the tasks' ``data``: the tasks are not played again."""
        values = {**plain, "restored": True}
        for name in EPISODES:
            values[name] = [_episode(record) for record in json.loads(plain[name].numpy().tobytes())]
        values["batches"] = [_batch_from_plain(batch) for batch in plain["batches"]]
        return cls(**values)


def refuse_empty(batches: Sequence[Batch], dropped: bool) -> None:
    """Raises ``UserError`` where every episode failed; warns where every group was dropped. Collective.

    Args:
        batches: the micro-batches of an iteration on this rank; ``total_rows`` counts the rows of all ranks.
        dropped: whether this rank dropped a group.
    """
    if any(batch.total_rows for batch in batches):
        return
    if not any(ranks.all_gather(dropped)):
        raise UserError("data.environment: every episode of this iteration failed; nothing can be trained on")
    if ranks.rank() == 0:
        warnings.warn(
            "no group of an iteration has rewards that differ: nothing to learn from, its update is left out; "
            "other tasks, a higher data.sampling.temperature or more data.max_refills may help",
            stacklevel=2,
        )


def loader(items: list[Any]) -> DataLoader[Any]:
    """Hands out batches, or an evaluation's tasks, one after the other."""
    # batch_size=None: each item is a batch already, and Lightning adds no sampler.
    return DataLoader(cast("Dataset[Any]", items), batch_size=None, shuffle=False)


# ---------------------------------------------------------------------- checkpoints


def restore(saved: list[dict[str, Any]], epoch: int, rank: int, world: int) -> tuple[Iteration | None, list[Row]]:
    """One rank's share of a checkpoint's rollouts; (None, []) if they are of another epoch.

    Same number of ranks: the iteration unchanged, and []. Another number: the iteration without batches, and the rows
    to rebuild them from.

    Args:
        saved: ``Iteration.to_plain`` of every rank.
        epoch: number of the iteration that begins.
        rank: the rank whose share is wanted.
        world: number of ranks.
    """
    parts = [Iteration.from_plain(part) for part in saved]
    if parts[0].epoch != epoch:
        return None, []
    return (parts[rank], []) if len(parts) == world else redistribute(parts, rank, world)


def redistribute(parts: Sequence[Iteration], rank: int, world: int) -> tuple[Iteration, list[Row]]:
    """One rank's share of an iteration that another number of ranks has played: without batches, and its rows."""
    episodes, failed, dropped, rows = list[Episode](), list[Episode](), list[Episode](), list[Row]()
    for part in parts:
        for row in (row for batch in part.batches for row in uncollate(batch)):
            if row.group % world == rank:
                row.episode += len(episodes)
                rows.append(row)
        episodes += part.episodes
        failed += [episode for episode in part.failed if episode.group % world == rank]
        dropped += [episode for episode in part.dropped if episode.group % world == rank]
    # Row.episode indexes the rank's episodes: keep this rank's, in the order in which it would have played them.
    mine = [i for i, episode in enumerate(episodes) if episode.group % world == rank]
    mine.sort(key=lambda i: (episodes[i].group, episodes[i].index))
    index = {old: new for new, old in enumerate(mine)}
    for row in rows:
        row.episode = index[row.episode]
    rows.sort(key=lambda row: (row.episode, row.turns[:1]))
    kept = [episodes[i] for i in mine]
    iteration = Iteration(parts[0].epoch, kept, [], 1, failed=failed, dropped=dropped, restored=True)
    if rank == 0:  # counts that are summed over ranks when they are logged
        for name in ("generated", "prefilled", "dropped_groups", "refills"):
            setattr(iteration, name, sum(getattr(part, name) for part in parts))
    iteration.rollout_s, iteration.score_s = (max(getattr(p, n) for p in parts) for n in ("rollout_s", "score_s"))
    return iteration, rows


def _list_of(value: Any, keep: bool) -> Any:
    """An array (``Turn.likely``) as a list, unless the batches hold it already; None for anything else."""
    return value.tolist() if keep and isinstance(value, np.ndarray) else None


def _batch_to_plain(batch: Batch) -> dict[str, Any]:
    teacher = None if batch.teacher_batch is None else _batch_to_plain(batch.teacher_batch)
    return {**vars(batch), "teacher_batch": teacher}


def _batch_from_plain(values: dict[str, Any]) -> Batch:
    teacher = None if values["teacher_batch"] is None else _batch_from_plain(values["teacher_batch"])
    return Batch(**{**values, "teacher_batch": teacher})


def _episode(record: dict[str, Any]) -> Episode:
    turns = [_turn(turn) for turn in record["turns"]]
    first = _observation(record["first"])
    return Episode(**{**record, "task": Task(**record["task"]), "first": first, "turns": turns})


def _turn(record: dict[str, Any]) -> Turn:
    likely = None if record["likely"] is None else np.array(record["likely"], np.float32)
    return Turn(**{**record, "observation": _observation(record["observation"]), "likely": likely})


def _observation(record: dict[str, Any]) -> Observation:
    return Observation(**{**record, "admissible": tuple(record["admissible"])})
