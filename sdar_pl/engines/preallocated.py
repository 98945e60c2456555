"""Cache layers that write a new token into columns that are there, instead of copying all columns.

A file of its own because they derive from a class of transformers, whose import takes a second.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from sdar_pl.engines.kv import COLUMNS_AT_ONCE


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]
    """``DynamicLayer`` whose ``keys`` and ``values`` [n, H, T, D] are the first T columns of those in ``storage``."""

    def __init__(self, keys: Tensor, values: Tensor, length: int) -> None:
        super().__init__()
        self.storage = keys, values
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._show(length)

    def _show(self, length: int) -> None:
        self.keys, self.values = self.storage[0][:, :, :length], self.storage[1][:, :, :length]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        old = self.keys.shape[2]
        new = old + key_states.shape[2]
        if self.storage[0].shape[2] < new:
            self.storage = _longer(self.keys, new + COLUMNS_AT_ONCE), _longer(self.values, new + COLUMNS_AT_ONCE)
        self.storage[0][:, :, old:new] = key_states
        self.storage[1][:, :, old:new] = value_states
        self._show(new)
        return self.keys, self.values


class SlotLayer(DynamicLayer):  # type: ignore[misc]
    """``keys`` and ``values`` [n, H, W, D] of fixed size; row i's new token goes to column ``columns[i]``."""

    def __init__(self, keys: Tensor, values: Tensor, columns: Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.columns = keys, values, columns
        self.rows = torch.arange(len(keys), device=keys.device)
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        # Under autocast a step may compute in another dtype than the prompt.
        self.keys[self.rows, :, self.columns] = key_states[:, :, 0].to(self.keys.dtype)
        self.values[self.rows, :, self.columns] = value_states[:, :, 0].to(self.values.dtype)
        return self.keys, self.values


def _longer(x: Tensor, width: int) -> Tensor:
    """A copy of ``x`` [n, H, T, D] with ``width`` columns, those behind the first T empty."""
    storage = x.new_empty(*x.shape[:2], width, x.shape[3])
    storage[:, :, : x.shape[2]] = x
    return storage
