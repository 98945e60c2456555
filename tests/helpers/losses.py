"""Inputs of objectives for tests, and what is read off an objective."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sdar_pl import objectives as O

DOUBLE = torch.float64


def example(rows: int = 6, seed: int = 0, dtype: torch.dtype = torch.float32) -> O.LossInputs:
    """Random rows of very different lengths (one is empty), two or three turns a row, off-policy by a little."""
    g = torch.Generator().manual_seed(seed)
    length = 9

    def logprobs(like: Tensor | None = None, spread: float = 0.3) -> Tensor:
        if like is None:
            return -torch.rand(rows, length, generator=g, dtype=dtype) * 3
        return like + spread * torch.randn(rows, length, generator=g, dtype=dtype)

    student = logprobs()
    lengths = torch.tensor([9, 1, 0, 4, 6, 8])[:rows]
    mask = (torch.arange(length) < lengths[:, None]).to(dtype)
    advantages = torch.randn(rows, 1, generator=g, dtype=dtype).expand(rows, length)
    return O.LossInputs(
        student_logprobs=student.requires_grad_(),
        mask=mask,
        advantages=advantages,
        turns=(torch.arange(length) // 4).expand(rows, length),
        old_logprobs=logprobs(student.detach(), 0.2),
        teacher_logprobs=logprobs(student.detach(), 0.8),
        reference_logprobs=logprobs(student.detach()),
        entropy=torch.rand(rows, length, generator=g, dtype=dtype) * 2,
        student_top=torch.randn(rows, length, 5, generator=g, dtype=dtype).log_softmax(-1),
        teacher_top=torch.randn(rows, length, 5, generator=g, dtype=dtype).log_softmax(-1),
        iteration=3,
        episodes=torch.tensor([0, 0, 1, 1, 2, 3])[:rows],
        groups=torch.tensor([0, 0, 0, 0, 1, 1])[:rows],
        success=torch.tensor([True, True, False, False, True, False])[:rows],
    )


def rows_of(inputs: O.LossInputs, rows: slice) -> O.LossInputs:
    """Some rows, as a micro-batch holds them; totals and iteration stay."""
    return replace(inputs, **{k: v[rows] for k, v in vars(inputs).items() if isinstance(v, Tensor)})


def with_totals(inputs: O.LossInputs) -> O.LossInputs:
    """The same with the totals of its step: it is the whole step."""
    lengths = inputs.mask.sum(1)
    return replace(inputs, total_tokens=float(lengths.sum()), total_rows=float((lengths > 0).sum()))


def spoiled(inputs: O.LossInputs, bad: float) -> O.LossInputs:
    """The same with ``bad`` at every masked position of every float tensor; fresh leaves."""
    changed: dict[str, Any] = {}
    for name, value in vars(inputs).items():
        if isinstance(value, Tensor) and value.is_floating_point() and name != "mask":
            real = (inputs.mask > 0)[(..., *[None] * (value.dim() - 2))]
            changed[name] = torch.where(real, value.detach(), bad).requires_grad_(value.requires_grad)
    return replace(inputs, **changed)


def grad(objective: O.Objective, inputs: O.LossInputs) -> Tensor:
    """The gradient of the loss with respect to the student's log-probs [B, R]."""
    return torch.autograd.grad(objective(inputs).loss, inputs.student_logprobs)[0]


def shaped(shaper: O.AdvantageShaper, inputs: O.LossInputs) -> Tensor:
    """The advantages [B, R] after the shaper."""
    return O.Objective(shaper=shaper).shape(inputs)


def turn_sums(values: Tensor, inputs: O.LossInputs) -> Tensor:
    """Sums of ``values`` [B, R] over turns, [B, number of turns]."""
    width = int(inputs.turns.max()) + 1
    return torch.stack([(values * inputs.mask * (inputs.turns == k)).sum(1) for k in range(width)], 1)
