"""Episodes → rows → micro-batches of tensors.

A row is one sequence to train on: a whole episode with many response spans in ``conversation`` history, one turn in
``windowed`` history. The k-th response token of the student's row is the k-th of the teacher's row.

Shapes: B rows, L tokens of the longest row, R response tokens of the row that has most, k tokens of the teacher's top.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sdar_pl.modeling.prefix_tree import pack
from sdar_pl.objectives.inputs import LossInputs
from sdar_pl.runtime.ranks import all_gather, all_sum, world
from sdar_pl.types import Episode

#: The values that a Row holds for each of its response tokens. Collating, uncollating, blank rows and LossInputs go by
#: this table and by equal names: a new per-token quantity is one line here and a field in Row, Batch and LossInputs.
PER_TOKEN: Mapping[str, torch.dtype] = {
    "positions": torch.long,
    "turns": torch.long,
    "advantages": torch.float32,
    "engine_logprobs": torch.float32,
    "old_logprobs": torch.float32,
    "teacher_logprobs": torch.float32,
    "reference_logprobs": torch.float32,
    "top_tokens": torch.long,
    "teacher_top": torch.float32,
    "likely": torch.float32,  # numbers of tokens below 2²⁴ are exact
}


@dataclass
class Row:
    """One sequence. Every per-token list has one value for each entry of ``positions``.

    Args:
        episode: index into the iteration's episodes on this rank.
        group: number of the episode's group.
        tokens: prompts and responses as the student reads them.
        positions: indices of the response tokens in ``tokens``.
        turns: number of each response token's turn within the episode.
        engine_logprobs: log-probs that the engine sampled the response tokens with.
        teacher_tokens: the same responses after the teacher's prompt. Empty: the teacher reads ``tokens``.
        teacher_positions: indices of the response tokens in ``teacher_tokens``.
        advantages: one per response token; filled by scoring.py, as is all that follows.
        old_logprobs: log-probs under the weights that rolled out.
        teacher_logprobs: log-probs under the teacher.
        reference_logprobs: log-probs under the reference view.
        top_tokens: [R, k] long, the teacher's likeliest tokens, where the objective asks for them.
        teacher_top: [R, k + 1], the teacher's log-probs of these and, last, of all other tokens together.
        likely: [R, k, 2], number and log-prob of the engine's likeliest tokens, where the correction reads them.

    Example:
        Two turns of a conversation (prompts P and O, responses R), the teacher reading a skill S0 in front::

            Row(episode=0, group=3,
                tokens=[P0, P1, R0, R1, O0, R2],             positions=[2, 3, 5],  turns=[0, 0, 1],
                teacher_tokens=[S0, P0, P1, R0, R1, O0, R2], teacher_positions=[3, 4, 6],
                engine_logprobs=[-0.1, -0.2, -0.3],          advantages=[1.5, 1.5, 1.5])
    """

    episode: int
    group: int
    tokens: list[int]
    positions: list[int]
    turns: list[int]
    engine_logprobs: list[float]
    teacher_tokens: list[int] = field(default_factory=list)
    teacher_positions: list[int] = field(default_factory=list)
    advantages: list[float] = field(default_factory=list)
    old_logprobs: list[float] | None = None
    teacher_logprobs: list[float] | None = None
    reference_logprobs: list[float] | None = None
    top_tokens: Tensor | None = None
    teacher_top: Tensor | None = None
    likely: Tensor | None = None

    def __post_init__(self) -> None:
        self.advantages = self.advantages or [0.0] * len(self.positions)

    def as_teacher(self) -> Row:
        """The same responses in the teacher's sequence. Without privileged context that is the student's sequence."""
        if not self.teacher_tokens:
            return self
        return replace(self, tokens=self.teacher_tokens, positions=self.teacher_positions)


@dataclass
class Batch:
    """Rows as tensors: one micro-batch.

    ``total_tokens`` = (response tokens of the whole optimizer step, all ranks) / world size; ``total_rows`` likewise.
    With them as denominators, the sum over micro-batches followed by the mean over ranks (what DDP does) equals the
    loss of the step.

    Args:
        tokens: [B, L] long, right-padded.
        attention: [B, L] long, 1 where there is a token.
        mask: [B, R] float, 1 at response tokens.
        episodes: [B] long, index into the rank's episodes.
        groups: [B] long, number of the group.
        teacher_batch: the same rows as the teacher reads them, where it reads at every optimizer step; same [B, R].
        total_tokens: denominator of means over tokens (None: this batch is the whole step).
        total_rows: denominator of means over rows (likewise).
        learns: [B] float, 0 for rows that are kept for the distillation alone (None: there are none).
        learning_tokens: ``total_tokens`` without those rows (likewise).
        learning_rows: ``total_rows`` without those rows (likewise).

    The other fields are those of Row, padded with 0: [B, R], and [B, R, …] for the teacher's top and the likeliest.

    Example:
        The row of Row's example beside a shorter one (pad token _)::

            tokens    = [[P0, P1, R0, R1, O0, R2], [P0, R0, _, _, _, _]]
            positions = [[2, 3, 5], [1, 0, 0]]
            mask      = [[1, 1, 1], [1, 0, 0]]
    """

    tokens: Tensor
    attention: Tensor
    positions: Tensor
    mask: Tensor
    turns: Tensor
    episodes: Tensor
    groups: Tensor
    advantages: Tensor
    engine_logprobs: Tensor
    old_logprobs: Tensor | None = None
    teacher_logprobs: Tensor | None = None
    reference_logprobs: Tensor | None = None
    top_tokens: Tensor | None = None
    teacher_top: Tensor | None = None
    likely: Tensor | None = None
    teacher_batch: Batch | None = None
    total_tokens: float | None = None
    total_rows: float | None = None
    learns: Tensor | None = None
    learning_tokens: float | None = None
    learning_rows: float | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        moved: dict[str, Any] = {name: v.to(device) for name, v in vars(self).items() if isinstance(v, Tensor | Batch)}
        return replace(self, **moved)

    def loss_inputs(
        self,
        student_logprobs: Tensor,
        *,
        iteration: int,
        entropy: Tensor | None = None,
        student_top: Tensor | None = None,
        shaped: bool = False,
    ) -> LossInputs:
        """What the objective reads: this batch, and what the student's forward pass gave (see LossInputs)."""
        shared: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(LossInputs) if hasattr(self, f.name)}
        for name in ("total_tokens", "total_rows", "learning_tokens", "learning_rows"):
            shared[name] = 1.0 if shared[name] == 0 else shared[name]  # a step without any row: its loss is 0 / 1
        return LossInputs(
            student_logprobs, **shared, entropy=entropy, student_top=student_top, iteration=iteration, shaped=shaped
        )


# ---------------------------------------------------------------------- episodes → rows


def rows_of(episode: Episode, index: int, history: str) -> list[Row]:
    """The rows of an episode: one for a ``conversation``, one for each turn when ``windowed``.

    Raises AssertionError if the teacher's response tokens are not the student's (a bug: the token contract).
    """
    numbers = list(range(len(episode.turns)))
    spans = [[number] for number in numbers] if history == "windowed" else [numbers]
    rows = [_row(episode, index, span) for span in spans]
    for row in rows:
        student = [row.tokens[p] for p in row.positions]
        if row.teacher_tokens and student != [row.teacher_tokens[p] for p in row.teacher_positions]:
            raise AssertionError("the teacher's response tokens are not the student's")
    return rows


def _row(episode: Episode, index: int, numbers: list[int]) -> Row:
    row, likely = Row(index, episode.group, [], [], [], []), list[Tensor]()
    # Where the teacher's first prompt is the student's, so is the whole row.
    has_context = episode.turns[numbers[0]].teacher_prompt is not None
    for number in numbers:
        turn = episode.turns[number]
        sides = [(row.tokens, row.positions, turn.prompt)]
        if has_context:
            teacher_prompt = turn.prompt if turn.teacher_prompt is None else turn.teacher_prompt
            sides.append((row.teacher_tokens, row.teacher_positions, teacher_prompt))
        for tokens, positions, prompt in sides:
            tokens.extend(prompt)
            positions.extend(range(len(tokens), len(tokens) + len(turn.response)))
            tokens.extend(turn.response)
        row.turns.extend([number] * len(turn.response))
        row.engine_logprobs.extend(turn.logprobs)
        if turn.likely is not None:
            likely.append(torch.from_numpy(turn.likely))
    row.likely = torch.cat(likely) if likely else None
    row.advantages = [0.0] * len(row.positions)
    return row


# ---------------------------------------------------------------------- rows ↔ tensors


def collate(rows: Sequence[Row], pad: int = 0) -> Batch:
    """Pad rows into one Batch. A per-token quantity that any row lacks is None."""

    def padded(values: Sequence[Any], dtype: torch.dtype, fill: int = 0) -> Tensor:
        return pad_sequence([torch.as_tensor(v, dtype=dtype) for v in values], batch_first=True, padding_value=fill)

    per_token: dict[str, Any] = {}
    for name, dtype in PER_TOKEN.items():
        values = [getattr(row, name) for row in rows]
        per_token[name] = None if any(value is None for value in values) else padded(values, dtype)
    return Batch(
        tokens=padded([row.tokens for row in rows], torch.long, pad),
        attention=padded([[1] * len(row.tokens) for row in rows], torch.long),
        mask=padded([[1.0] * len(row.positions) for row in rows], torch.float32),
        episodes=torch.tensor([row.episode for row in rows], dtype=torch.long),
        groups=torch.tensor([row.group for row in rows], dtype=torch.long),
        **per_token,
    )


def uncollate(batch: Batch) -> list[Row]:
    """The rows of a Batch, with the teacher's sequences where it carries them, and without blank rows."""
    rows = []
    for i in range(len(batch.tokens)):
        real = batch.mask[i].bool()
        if not real.any():
            continue
        values: dict[str, Any] = {}
        for name in PER_TOKEN:
            if (column := getattr(batch, name)) is not None:
                values[name] = column[i][real] if column.dim() > 2 else column[i][real].tolist()
        if (teacher := batch.teacher_batch) is not None:
            values["teacher_tokens"] = teacher.tokens[i][teacher.attention[i].bool()].tolist()
            values["teacher_positions"] = teacher.positions[i][real].tolist()
        tokens = batch.tokens[i][batch.attention[i].bool()].tolist()
        rows.append(Row(int(batch.episodes[i]), int(batch.groups[i]), tokens, **values))
    return rows


def blank_row(like: Row | None) -> Row:
    """A row without response tokens, with the per-token quantities of ``like``: fills up a rank's micro-batches."""
    present = {name: values[:0] for name in PER_TOKEN if (values := getattr(like, name, None)) is not None}
    return replace(Row(0, 0, [0, 0], [], [], []), **present)


# ---------------------------------------------------------------------- micro-batches


def micro_batches(
    rows: Sequence[Row],
    *,
    step_of: Mapping[int, int],
    steps: int,
    budget: int,
    pad: int,
    with_teacher: bool,
    shared: bool,
) -> tuple[list[Batch], int]:
    """This rank's micro-batches, and how many of them make an optimizer step (at least 1, equal on all ranks).

    Collective. Where a rank has fewer rows than others, blank rows fill its steps.

    Args:
        rows: the iteration's rows on this rank.
        step_of: number of the optimizer step of each group.
        steps: optimizer steps of the iteration.
        budget: tokens of a micro-batch (``pack``).
        pad: the tokenizer's pad token.
        with_teacher: give each micro-batch its ``teacher_batch``.
        shared: the policy reads a prefix that rows share once (``Policy.shares_prefixes``).
    """
    rows_of_step = [[row for row in rows if step_of[row.group] == step] for step in range(steps)]
    packed = [pack([row.tokens for row in chosen], budget, shared) for chosen in rows_of_step]
    parts = [[[chosen[i] for i in chunk] for chunk in bins] for bins, chosen in zip(packed, rows_of_step, strict=True)]
    accumulate = max(1, *all_gather(max(map(len, parts))))
    tokens = all_sum([float(sum(len(row.positions) for row in chosen)) for chosen in rows_of_step])
    counts = all_sum([float(len(chosen)) for chosen in rows_of_step])
    blank = [blank_row(next(iter(rows), None))]
    batches = []
    for part, total_tokens, total_rows in zip(parts, tokens, counts, strict=True):
        for chunk in part + [blank] * (accumulate - len(part)):
            batch = collate(chunk, pad)
            batch.teacher_batch = collate([row.as_teacher() for row in chunk], pad) if with_teacher else None
            batches.append(replace(batch, total_tokens=total_tokens / world(), total_rows=total_rows / world()))
    return batches, accumulate
