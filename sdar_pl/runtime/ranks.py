"""Collectives on picklable data. In a single process they return the caller's own value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def rank() -> int:
    """The number of this process among the ranks, from 0."""
    return torch.distributed.get_rank() if distributed() else 0


def world() -> int:
    """The number of ranks."""
    return torch.distributed.get_world_size() if distributed() else 1


def all_gather(value: T) -> list[T]:
    """The values of all ranks, in the order of ranks. Collective; the values must be picklable."""
    if not distributed():
        return [value]
    values: list[Any] = [None] * world()
    torch.distributed.all_gather_object(values, value)
    return values


def gather_to_rank_zero(value: T) -> list[T]:
    """The values of all ranks, in the order of ranks, on rank 0; elsewhere the caller's value alone. Collective."""
    if not distributed():
        return [value]
    values: list[Any] = [None] * world()
    torch.distributed.gather_object(value, None if rank() else values)
    return [value] if rank() else values


def all_sum(values: Sequence[float]) -> list[float]:
    """Sums over all ranks, one for each of ``values``. Collective."""
    return [sum(column) for column in zip(*all_gather(list(values)), strict=True)]


def distributed() -> bool:
    """Whether the process is a rank of DDP or FSDP, possibly the only one."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()
