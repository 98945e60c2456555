"""What ranks tell each other: plain data, gathered. Without ranks it is one's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def rank() -> int:
    """This process's place in ``everyones``."""
    return torch.distributed.get_rank() if _several() else 0


def everyones(value: T) -> list[T]:
    """The values of all ranks, in the order of ranks. Collective; the values must be picklable."""
    if not _several():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def summed(values: Sequence[float]) -> list[float]:
    """Numbers of this rank → their sums over all ranks. Collective."""
    return [sum(column) for column in zip(*everyones(list(values)), strict=True)]


def _several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
