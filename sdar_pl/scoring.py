"""What a rollout is worth: advantages per row, and log-probs under the three views.

Teacher log-probs are taken once an iteration under θ_old, in eval mode, at rollout temperature (the paper's timing).
Reference log-probs are only computed when the objective uses them; old log-probs only when the iteration makes more
than one optimizer step (with one step they are the detached student's).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch

from sdar_pl.batch import Row, collate, pack
from sdar_pl.objectives.advantages import Advantage
from sdar_pl.policy import Policy
from sdar_pl.types import Episode


def set_advantages(rows: Sequence[Row], episodes: Sequence[Episode], advantage: Advantage) -> None:
    """Give every row its advantage. Whole groups are on one rank, so no communication is needed."""
    rewards = torch.tensor([episodes[row.episode].reward for row in rows], dtype=torch.float64)
    groups = torch.tensor([row.group for row in rows])
    numbers = torch.tensor([row.episode for row in rows])
    for row, value in zip(rows, advantage(rewards, groups, numbers).tolist(), strict=True):
        row.advantage = value


@torch.no_grad()
def score(
    policy: Policy,
    rows: Sequence[Row],
    *,
    budget: int,
    temperature: float,
    teacher: bool,
    old: bool,
    reference: bool,
) -> None:
    """Fill the rows' ``teacher``, ``old`` and ``reference`` log-probs (``budget``: padded tokens a micro-batch).

    A row without teacher tokens has no privileged context: its teacher is the student itself.
    """
    was = policy.training
    policy.eval()
    try:
        if old:
            _fill(policy, rows, rows, "old", budget, temperature)
        if teacher:
            readings = [row.as_teacher() if row.teacher_tokens else row for row in rows]
            _fill(policy, rows, readings, "teacher", budget, temperature)
        if reference:
            _fill(policy, rows, rows, "reference", budget, temperature, policy.reference())
    finally:
        policy.train(was)


def _fill(
    policy: Policy,
    rows: Sequence[Row],
    readings: Sequence[Row],
    name: str,
    budget: int,
    temperature: float,
    view: AbstractContextManager[None] | None = None,
) -> None:
    where = {id(reading): row for reading, row in zip(readings, rows, strict=True)}
    with view or contextlib.nullcontext():
        for chunk in pack(readings, budget):
            batch = collate(chunk)
            values, _ = policy.logprobs(batch.to(policy.device), temperature=temperature)
            for reading, value in zip(chunk, values.tolist(), strict=True):
                setattr(where[id(reading)], name, value[: len(reading.positions)])
