"""What ranks tell each other: plain data, gathered. Without ranks it is one's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def rank() -> int:
    """This process's place among the ranks, from 0."""
    return torch.distributed.get_rank() if _several() else 0


def world() -> int:
    """How many ranks there are."""
    return torch.distributed.get_world_size() if _several() else 1


def all_gather(value: T) -> list[T]:
    """The values of all ranks, in the order of ranks. Collective; the values must be picklable."""
    if not _several():
        return [value]
    values: list[Any] = [None] * world()
    torch.distributed.all_gather_object(values, value)
    return values


def gather_to_rank_zero(value: T) -> list[T]:
    """The values of all ranks, in the order of ranks, on rank 0; elsewhere one's own alone. Collective."""
    if not _several():
        return [value]
    values: list[Any] = [None] * world()
    torch.distributed.gather_object(value, None if rank() else values)
    return [value] if rank() else values


def all_sum(values: Sequence[float]) -> list[float]:
    """Numbers of this rank → their sums over all ranks. Collective."""
    return [sum(column) for column in zip(*all_gather(list(values)), strict=True)]


def _several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
