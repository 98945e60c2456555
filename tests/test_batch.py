"""Rows, packing and padding."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from helpers.builders import an_episode

from sdar_pl.batch import PER_TOKEN, Row, blank_row, collate, micro_batches, rows_of, uncollate
from sdar_pl.modeling.prefix_tree import pack


def test_a_conversation_is_one_row() -> None:
    (row,) = rows_of(an_episode(), 5, "conversation")
    assert (row.episode, row.group) == (5, 3)
    assert row.tokens == [1, 2, 0, 11, 12, 100, 101, 21, 22, 200, 201, 202]
    assert row.positions == [2, 5, 6, 9, 10, 11]
    assert row.turns == [0, 1, 1, 2, 2, 2]
    assert row.engine_logprobs == [-0.5, -1, -1, -1.5, -1.5, -1.5]
    # The teacher reads the privileged prompt once, then the same as the student.
    assert row.teacher_tokens == [7, 7, *row.tokens]
    assert row.teacher_positions == [position + 2 for position in row.positions]
    assert row.as_teacher().tokens == row.teacher_tokens
    assert [row.tokens[p] for p in row.positions] == [row.teacher_tokens[p] for p in row.teacher_positions]


def test_windowed_turns_are_rows() -> None:
    first, second, third = rows_of(an_episode(), 5, "windowed")
    assert (second.tokens, second.positions, second.turns) == ([11, 12, 100, 101], [2, 3], [1, 1])
    assert third.engine_logprobs == [-1.5] * 3
    assert first.teacher_tokens == [7, 7, 1, 2, 0]
    assert first.teacher_positions == [4]
    assert not second.teacher_tokens


def test_without_a_teacher() -> None:
    for history in ("conversation", "windowed"):
        assert not any(row.teacher_tokens for row in rows_of(an_episode(teacher=False), 0, history))


def test_other_tokens_for_the_teacher_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from sdar_pl import batch

    make = batch._row

    def shifted(*args: Any) -> Row:
        row = make(*args)
        row.teacher_positions = [position - 1 for position in row.teacher_positions]
        return row

    rows_of(an_episode(), 0, "conversation")
    monkeypatch.setattr(batch, "_row", shifted)
    with pytest.raises(AssertionError, match="response tokens"):
        rows_of(an_episode(), 0, "conversation")


def test_collate() -> None:
    rows = [*rows_of(an_episode(), 5, "conversation"), *rows_of(an_episode(), 6, "windowed")[1:2]]
    rows[0].advantages, rows[1].advantages = [1.5] * 6, [-0.5] * 2
    rows[0].teacher_logprobs, rows[1].teacher_logprobs = [-0.1] * 6, [-0.2] * 2
    rows[0].old_logprobs = [-0.3] * 6  # the other row has none
    batch = collate(rows, pad=9)
    assert batch.tokens.shape == batch.attention.shape == (2, 12)
    assert batch.tokens[1].tolist() == [11, 12, 100, 101] + [9] * 8
    assert batch.attention.sum(1).tolist() == [12, 4]
    assert batch.attention[1].tolist() == [1] * 4 + [0] * 8
    for name in ("positions", "mask", "turns", "engine_logprobs", "teacher_logprobs"):
        assert getattr(batch, name).shape == (2, 6), name
    assert batch.mask.tolist() == [[1.0] * 6, [1.0] * 2 + [0.0] * 4]
    assert batch.positions[1].tolist() == [2, 3, 0, 0, 0, 0]
    assert batch.turns[1].tolist() == [1, 1, 0, 0, 0, 0]
    assert batch.episodes.tolist() == [5, 6]
    assert batch.groups.tolist() == [3, 3]
    assert batch.advantages.tolist() == [[1.5] * 6, [-0.5] * 2 + [0.0] * 4]
    rows[0].advantages = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    torch.testing.assert_close(collate(rows).advantages[0], torch.tensor(rows[0].advantages))
    assert batch.engine_logprobs[1].tolist() == [-1.0, -1.0, 0, 0, 0, 0]
    assert batch.teacher_logprobs is not None
    torch.testing.assert_close(batch.teacher_logprobs[1], torch.tensor([-0.2, -0.2, 0, 0, 0, 0]))
    assert batch.old_logprobs is None
    assert batch.reference_logprobs is None
    floats = ("mask", "advantages", "engine_logprobs", "teacher_logprobs")
    assert {getattr(batch, name).dtype for name in floats} == {torch.float32}


def test_the_teachers_likeliest_tokens_are_padded() -> None:
    rows = [*rows_of(an_episode(), 5, "conversation"), *rows_of(an_episode(), 6, "windowed")[1:2]]
    for row in rows:
        count = len(row.positions)
        row.top_tokens, row.teacher_top = torch.arange(3 * count).view(count, 3), -torch.rand(count, 4)
    blank = blank_row(rows[0])
    batch = collate([*rows, blank])
    assert batch.top_tokens is not None
    assert batch.teacher_top is not None
    assert (batch.top_tokens.dtype, batch.teacher_top.dtype) == (torch.long, torch.float32)
    assert batch.top_tokens.shape == (3, 6, 3)
    assert batch.teacher_top.shape == (3, 6, 4)
    for b, row in enumerate(rows):
        assert row.teacher_top is not None
        assert torch.equal(batch.teacher_top[b, : len(row.positions)], row.teacher_top)
    assert batch.teacher_top[batch.mask == 0].abs().sum() == 0
    for mine, row in zip(uncollate(batch), rows, strict=True):
        assert mine.top_tokens is not None
        assert mine.teacher_top is not None
        assert torch.equal(mine.top_tokens, row.top_tokens)
        assert torch.equal(mine.teacher_top, row.teacher_top)
    alone = collate([blank])
    assert alone.top_tokens is not None
    assert alone.top_tokens.shape == (1, 0, 3)
    rows[1].teacher_top = None
    assert collate(rows).teacher_top is None


def test_the_engines_likeliest_tokens_are_those_of_the_rows_turns() -> None:
    """Whole numbers come through float32; a rank without rows has them in its blank batch."""
    episode = an_episode()
    for number, turn in enumerate(episode.turns):
        shape = (len(turn.response), 3, 2)
        turn.likely = np.full(shape, 150_001 + number, np.float32)
    conversation, windowed = rows_of(episode, 0, "conversation"), rows_of(episode, 0, "windowed")
    batch = collate([*conversation, *windowed])
    assert batch.likely is not None
    assert batch.likely.shape == (*batch.mask.shape, 3, 2)
    wanted = (150_001 + batch.turns) * batch.mask
    assert torch.equal(batch.likely, wanted[..., None, None].expand_as(batch.likely))
    again = collate(uncollate(batch))
    assert again.likely is not None
    assert torch.equal(again.likely, batch.likely)
    blank = collate([blank_row(conversation[0])])
    assert blank.likely is not None
    assert blank.likely.shape == (1, 0, 3, 2)


def test_a_batch_moves_whole() -> None:
    batch = collate(rows_of(an_episode(), 0, "conversation"))
    batch.total_tokens = 7.0
    moved = batch.to(torch.device("meta"))
    assert moved.total_tokens == 7.0
    assert moved.old_logprobs is None
    tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 9
    assert all(tensor.is_meta for tensor in tensors)
    assert not batch.tokens.is_meta


@pytest.mark.parametrize("budget", [1, 30, 64, 200, 10_000])
def test_pack(budget: int) -> None:
    rng = random.Random(budget)
    rows = [Row(n, 0, [0] * rng.randint(1, 60), [], [], []) for n in range(50)]
    bins = [[rows[i] for i in chunk] for chunk in pack([row.tokens for row in rows], budget, shared=False)]
    assert sorted(row.episode for part in bins for row in part) == list(range(50)), "every row once"
    for part in bins:
        padded = len(part) * max(len(row.tokens) for row in part)
        assert padded <= budget or len(part) == 1
    # No two bins side by side could have been one.
    for part, following in pairwise(bins):
        assert len(part[0].tokens) * (len(part) + 1) > budget
        assert len(part[0].tokens) >= len(following[0].tokens)
    assert pack([], 100, shared=False) == []


def test_loss_inputs_are_the_batch_s() -> None:
    """Every quantity goes by its name; without totals, the batch is the whole step."""
    rows = rows_of(an_episode(), 5, "windowed")
    for row in rows:
        row.teacher_logprobs, row.old_logprobs = [-0.1] * len(row.positions), [-0.2] * len(row.positions)
    batch = collate(rows)
    student = torch.zeros_like(batch.mask)
    inputs = batch.loss_inputs(student, iteration=4, entropy=student + 1, student_top=student[..., None], shaped=True)
    for name in (*PER_TOKEN, "mask", "episodes", "groups"):
        if hasattr(inputs, name):
            assert getattr(inputs, name) is getattr(batch, name), name
    assert inputs.student_logprobs is student
    assert inputs.entropy is not None
    assert inputs.student_top is not None
    assert (inputs.iteration, inputs.shaped, inputs.total_tokens, inputs.total_rows) == (4, True, None, None)
    batch.total_tokens = batch.total_rows = 0.0
    empty = batch.loss_inputs(student, iteration=0)
    assert (empty.total_tokens, empty.total_rows, empty.shaped) == (1.0, 1.0, False), "an empty step divides by 1"
    batch.total_tokens, batch.total_rows = 6.0, 2.5
    whole = batch.loss_inputs(student, iteration=0)
    assert (whole.total_tokens, whole.total_rows) == (6.0, 2.5)


@pytest.mark.parametrize("with_teacher", [True, False])
def test_micro_batches(with_teacher: bool) -> None:
    """Two steps, of one rank: as many micro-batches each, with the totals of their step; blank ones fill up."""
    rows = [*rows_of(an_episode(), 0, "windowed"), *rows_of(an_episode(), 1, "windowed")]
    for row in rows[3:]:
        row.group = 4
    rows.pop()  # the second group has two rows: of one and of two response tokens
    batches, accumulate = micro_batches(
        rows, step_of={3: 1, 4: 0}, steps=2, budget=10, pad=9, with_teacher=with_teacher, shared=False
    )
    assert (accumulate, len(batches)) == (2, 4)
    assert [batch.total_rows for batch in batches] == [2, 2, 3, 3]
    assert [batch.total_tokens for batch in batches] == [3, 3, 6, 6]
    counts = [int(batch.mask.sum()) for batch in batches]
    assert sum(counts[:2]) == 3
    assert sum(counts[2:]) == 6
    assert counts[1] == 0, "a blank one"
    assert uncollate(batches[1]) == []
    for batch in batches:
        assert (batch.teacher_batch is not None) is with_teacher
        assert batch.teacher_batch is None or batch.teacher_batch.mask.shape == batch.mask.shape
    assert micro_batches([], step_of={}, steps=2, budget=10, pad=0, with_teacher=False, shared=False)[1] == 1
