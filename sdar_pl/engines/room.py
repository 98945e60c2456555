"""A cache layer with room to spare: a new token is written behind the last one instead of copying all of them.

A file of its own because it derives from a class of transformers, whose import takes a second.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer

from sdar_pl.engines.kv import STEP


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]
    """``DynamicLayer`` whose ``keys`` and ``values`` [n, H, T, D] are the first T columns of those in ``wide``."""

    def __init__(self, keys: Tensor, values: Tensor, length: int) -> None:
        super().__init__()
        self.wide = keys, values
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._show(length)

    def _show(self, length: int) -> None:
        self.keys, self.values = self.wide[0][:, :, :length], self.wide[1][:, :, :length]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        old = self.keys.shape[2]
        new = old + key_states.shape[2]
        if self.wide[0].shape[2] < new:
            self.wide = _widen(self.keys, new + STEP), _widen(self.values, new + STEP)
        self.wide[0][:, :, old:new] = key_states
        self.wide[1][:, :, old:new] = value_states
        self._show(new)
        return self.keys, self.values


def _widen(x: Tensor, width: int) -> Tensor:
    wide = x.new_empty(*x.shape[:2], width, x.shape[3])
    wide[:, :, : x.shape[2]] = x
    return wide
