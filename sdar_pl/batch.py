"""Rows → tensors. A row is one sequence to train on; a Batch is some rows, padded.

In ``conversation`` history a row is a whole episode with many response spans; in ``windowed`` history it is
one turn. Either way the k-th response token of the student's row is the k-th of the teacher's row.

Shapes: B rows, L tokens of the longest row, R response tokens of the row that has most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sdar_pl.types import Episode


@dataclass
class Row:
    """One sequence. ``positions`` are the indices of the response tokens in ``tokens``.

    ``teacher_tokens``/``teacher_positions`` are the same responses after the teacher's prompt (empty without a
    teacher). The log-prob lists are aligned with ``positions`` and are filled by scoring.py.
    """

    episode: int  # index into the iteration's episodes on this rank
    group: int
    tokens: list[int]
    positions: list[int]
    turns: list[int]
    engine_logprobs: list[float]
    teacher_tokens: list[int] = field(default_factory=list)
    teacher_positions: list[int] = field(default_factory=list)
    advantage: float = 0.0
    shaped: list[float] | None = None  # token advantages, where the objective shapes a whole iteration at once
    old_logprobs: list[float] | None = None
    teacher_logprobs: list[float] | None = None
    reference_logprobs: list[float] | None = None
    top_tokens: Tensor | None = None  # [R, k] long: the teacher's likeliest tokens, where the objective asks for them
    teacher_top: Tensor | None = None  # [R, k + 1]: the teacher's log-probs of these and, last, of all others together

    def as_teacher(self) -> Row:
        """The same responses as the teacher reads them; without privileged context it reads what the student reads."""
        if not self.teacher_tokens:
            return self
        return replace(self, tokens=self.teacher_tokens, positions=self.teacher_positions)


@dataclass
class Batch:
    """Rows as tensors. ``total_tokens`` and ``total_rows`` count the whole optimizer step on all ranks, divided by
    the number of ranks: the sum of micro-batch losses, averaged over ranks, is then the loss of the step."""

    tokens: Tensor  # [B, L] long, right-padded
    attention: Tensor  # [B, L] long, 1 where there is a token
    positions: Tensor  # [B, R] long
    mask: Tensor  # [B, R] float, 1 at response tokens
    turns: Tensor  # [B, R] long
    episodes: Tensor  # [B] long
    groups: Tensor  # [B] long
    advantages: Tensor  # [B, R] float
    engine_logprobs: Tensor  # [B, R] float: the engine's log-probs
    old_logprobs: Tensor | None = None  # [B, R]
    teacher_logprobs: Tensor | None = None  # [B, R]
    reference_logprobs: Tensor | None = None  # [B, R]
    top_tokens: Tensor | None = None  # [B, R, k] long
    teacher_top: Tensor | None = None  # [B, R, k + 1]
    reading: Batch | None = None  # the rows as the teacher reads them, where it does so at every step; same [B, R]
    total_tokens: float = 0.0
    total_rows: float = 0.0

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {name: v.to(device) for name, v in values.items() if isinstance(v, Tensor | Batch)}
        return replace(self, **moved)


def rows_of(episode: Episode, index: int, history: str) -> list[Row]:
    """An episode's rows: one for a ``conversation``, one a turn when ``windowed``."""
    if history == "windowed":
        rows = [_row(episode, index, [number]) for number in range(len(episode.turns))]
    else:
        rows = [_row(episode, index, list(range(len(episode.turns))))]
    for row in rows:
        student = [row.tokens[p] for p in row.positions]
        if row.teacher_tokens and student != [row.teacher_tokens[p] for p in row.teacher_positions]:
            raise AssertionError("the teacher's response tokens are not the student's")
    return rows


def _row(episode: Episode, index: int, numbers: list[int]) -> Row:
    row = Row(index, episode.group, [], [], [], [])
    with_teacher = bool(episode.turns[numbers[0]].teacher_prompt)
    for number in numbers:
        turn = episode.turns[number]
        sides = [(row.tokens, row.positions, turn.prompt)]
        if with_teacher:
            sides.append((row.teacher_tokens, row.teacher_positions, turn.teacher_prompt or turn.prompt))
        for tokens, positions, prompt in sides:
            tokens.extend(prompt)
            positions.extend(range(len(tokens), len(tokens) + len(turn.response)))
            tokens.extend(turn.response)
        row.turns.extend([number] * len(turn.response))
        row.engine_logprobs.extend(turn.logprobs)
    return row


def collate(rows: Sequence[Row], pad: int = 0) -> Batch:
    """Pad rows into one Batch."""
    length = max(len(row.tokens) for row in rows)
    responses = max(len(row.positions) for row in rows)

    def wide(pick: Callable[[Row], Sequence[float]], width: int, fill: float, dtype: torch.dtype) -> Tensor:
        return torch.tensor([[*pick(row), *[fill] * (width - len(pick(row)))] for row in rows], dtype=dtype)

    def scores(name: str) -> Tensor | None:
        if any(getattr(row, name) is None for row in rows):
            return None
        return wide(lambda row: getattr(row, name), responses, 0.0, torch.float32)

    def tops(name: str) -> Tensor | None:
        values = [getattr(row, name) for row in rows]
        return None if any(value is None for value in values) else pad_sequence(values, batch_first=True)

    return Batch(
        tokens=wide(lambda row: row.tokens, length, pad, torch.long),
        attention=wide(lambda row: [1] * len(row.tokens), length, 0, torch.long),
        positions=wide(lambda row: row.positions, responses, 0, torch.long),
        mask=wide(lambda row: [1.0] * len(row.positions), responses, 0.0, torch.float32),
        turns=wide(lambda row: row.turns, responses, 0, torch.long),
        episodes=torch.tensor([row.episode for row in rows], dtype=torch.long),
        groups=torch.tensor([row.group for row in rows], dtype=torch.long),
        advantages=wide(lambda row: row.shaped or [row.advantage] * len(row.positions), responses, 0.0, torch.float32),
        engine_logprobs=wide(lambda row: row.engine_logprobs, responses, 0.0, torch.float32),
        old_logprobs=scores("old_logprobs"),
        teacher_logprobs=scores("teacher_logprobs"),
        reference_logprobs=scores("reference_logprobs"),
        top_tokens=tops("top_tokens"),
        teacher_top=tops("teacher_top"),
    )


def uncollate(batch: Batch) -> list[Row]:
    """The rows of a Batch, with the teacher's reading where it still has to read, and without blank rows."""
    rows = []
    for i in range(len(batch.tokens)):
        inside = batch.mask[i].bool()

        def numbers(values: Tensor, inside: Tensor = inside) -> list[Any]:
            chosen: list[Any] = values[inside].tolist()
            return chosen

        row = Row(
            episode=int(batch.episodes[i]),
            group=int(batch.groups[i]),
            tokens=batch.tokens[i][batch.attention[i].bool()].tolist(),
            positions=numbers(batch.positions[i]),
            turns=numbers(batch.turns[i]),
            engine_logprobs=numbers(batch.engine_logprobs[i]),
            shaped=numbers(batch.advantages[i]),
        )
        for name in ("old_logprobs", "teacher_logprobs", "reference_logprobs"):
            scores = getattr(batch, name)
            setattr(row, name, None if scores is None else numbers(scores[i]))
        for name in ("top_tokens", "teacher_top"):
            tops = getattr(batch, name)
            setattr(row, name, None if tops is None else tops[i][inside])
        if (reading := batch.reading) is not None:
            row.teacher_tokens = reading.tokens[i][reading.attention[i].bool()].tolist()
            row.teacher_positions = numbers(reading.positions[i])
        if row.positions:
            rows.append(row)
    return rows


def pack(rows: Sequence[Row], budget: int) -> list[list[Row]]:
    """Rows → micro-batches of at most ``budget`` padded tokens (a longer row goes alone), longest first."""
    bins: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: -len(row.tokens)):
        if bins and len(bins[-1][0].tokens) * (len(bins[-1]) + 1) <= budget:
            bins[-1].append(row)
        else:
            bins.append([row])
    return bins


def blank_row(like: Row | None) -> Row:
    """A row without response tokens: fills a rank's last micro-batches so that all ranks have as many."""
    row = Row(0, 0, [0, 0], [], [], [])
    for name in ("old_logprobs", "teacher_logprobs", "reference_logprobs", "top_tokens", "teacher_top"):
        if like is not None and (values := getattr(like, name)) is not None:
            setattr(row, name, values[:0])
    return row
