"""Iterations in checkpoints: restored as they were, or redistributed to another number of ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.builders import an_episode

from sdar_pl.batch import Row, collate, rows_of, uncollate
from sdar_pl.modeling.prefix_tree import pack
from sdar_pl.sampling.iteration import Iteration, restore
from sdar_pl.types import Episode


def some_rows(history: str) -> tuple[list[Episode], list[Row]]:
    """Two episodes of each of six groups, scored."""
    episodes = [replace(an_episode(), group=group, index=index) for group in range(6) for index in range(2)]
    rows = [row for i, episode in enumerate(episodes) for row in rows_of(episode, i, history)]
    for number, row in enumerate(rows):
        row.advantages = [number / 8] * len(row.positions)
        row.old_logprobs, row.teacher_logprobs = (
            [value * part for value in row.engine_logprobs] for part in (1.5, 0.5)
        )
    return episodes, rows


def key(row: Row) -> tuple[Any, ...]:
    return (
        row.group,
        row.tokens,
        row.positions,
        row.turns,
        row.engine_logprobs,
        row.advantages,
        row.old_logprobs,
        row.teacher_logprobs,
        row.reference_logprobs,
    )


def reading(row: Row) -> tuple[list[int], list[int]]:
    """As the teacher reads it."""
    return row.as_teacher().tokens, row.as_teacher().positions


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("history", ["conversation", "windowed"])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_rollouts_are_dealt_to_any_number_of_ranks(history: str, world: int, later: bool, tmp_path: Path) -> None:
    """Also where the teacher still has to read them (``later``)."""
    episodes, rows = some_rows(history)
    assert any(reading(row)[0] != row.tokens for row in rows)
    assert sorted(map(key, uncollate(collate(rows)))) == sorted(map(key, rows))

    def share(rank: int, world: int) -> tuple[list[Episode], list[Row]]:
        mine = [i for i, episode in enumerate(episodes) if episode.group % world == rank]
        return [episodes[i] for i in mine], [
            replace(row, episode=mine.index(row.episode)) for row in rows if row.group % world == rank
        ]

    parts = []
    for rank in range(2):
        played, made = share(rank, 2)
        chunks = [[made[i] for i in chunk] for chunk in pack([row.tokens for row in made], 40, shared=False)]
        batches = [collate(chunk) for chunk in chunks]
        for batch, chunk in zip(batches, chunks, strict=True):
            batch.teacher_batch = collate([row.as_teacher() for row in chunk]) if later else None
        part = Iteration(4, played, batches, 1, generated=10, failed=[replace(played[0], failed="it hung")])
        part.dropped, part.dropped_groups, part.refills = [replace(played[0], index=7)], 2, 1
        parts.append(part)
    file = tmp_path / "x"
    torch.save([part.to_plain() for part in parts], file)
    plain = torch.load(file, weights_only=True)
    generated = failed = dropped = refills = 0
    for rank in range(world):
        assert restore(plain, 5, rank, world) == (None, [])
        iteration, dealt = restore(plain, 4, rank, world)
        assert iteration is not None
        assert iteration.restored
        played, made = share(rank, world)
        assert iteration.epoch == 4
        assert iteration.episodes == played
        if world == 2:
            assert not dealt
            dealt = [row for batch in iteration.batches for row in uncollate(batch)]
        assert sorted((row.episode, *key(row)) for row in dealt) == sorted((row.episode, *key(row)) for row in made)
        if later:
            assert sorted(map(reading, dealt)) == sorted(map(reading, made))
        generated, failed = generated + iteration.generated, failed + len(iteration.failed)
        dropped, refills = dropped + iteration.dropped_groups, refills + iteration.refills
        assert all(episode.index == 7 and episode.group % world == rank for episode in iteration.dropped)
    assert (generated, failed, dropped, refills) == (20, 2, 4, 2)


def test_a_rollout_that_is_not_scored_keeps_the_likeliest_tokens(tmp_path: Path) -> None:
    """A scored one has them in its batches alone."""
    episode = an_episode()
    for turn in episode.turns:
        turn.likely = np.random.default_rng(0).random((len(turn.response), 4, 2), np.float32)
    rows = rows_of(episode, 0, "conversation")
    for batches in ([], [collate(rows)]):
        torch.save(Iteration(0, [episode], batches, 1).to_plain(), tmp_path / "x")
        back = Iteration.from_plain(torch.load(tmp_path / "x", weights_only=True))
        for mine, turn in zip(back.episodes[0].turns, episode.turns, strict=True):
            if batches:
                assert mine.likely is None
            else:
                np.testing.assert_array_equal(mine.likely, turn.likely)
