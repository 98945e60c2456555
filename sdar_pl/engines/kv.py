"""Key–value caches of many sessions as padded tensors: gather rows, drop holes, put rows side by side.

A ``Block`` is [n rows, heads, T, width] per layer with a validity mask [n, T]. Within a turn rows end at different
times and leave holes; ``compact`` removes them, so that between turns every row is left-padded and contiguous.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Block:
    """Cached rows. ``layers`` holds (keys, values) [n, H, T, D]; ``valid`` [n, T] bool."""

    layers: list[tuple[Tensor, Tensor]]
    valid: Tensor

    @staticmethod
    def of(cache: Any, valid: Tensor) -> Block:
        """The content of a transformers ``DynamicCache``."""
        return Block([(layer.keys, layer.values) for layer in cache.layers], valid)

    def cache(self) -> Any:
        """A transformers ``DynamicCache`` of these rows."""
        from transformers import DynamicCache

        return DynamicCache(self.layers)

    def select(self, rows: Tensor) -> Block:
        """Rows by index; an index may occur more than once (a prompt shared by a group)."""
        return Block([(k[rows], v[rows]) for k, v in self.layers], self.valid[rows])

    def compact(self) -> Block:
        """The same rows without holes, left-padded to the longest."""
        width = self.valid.shape[1]
        longest = int(self.valid.sum(1).max())
        if longest == width:
            return self
        # A stable sort puts invalid columns first and keeps the order of valid ones.
        order = torch.argsort(self.valid.to(torch.int8), dim=1, stable=True)[:, width - longest :]

        def pick(x: Tensor) -> Tensor:
            return x.gather(2, order[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))

        return Block([(pick(k), pick(v)) for k, v in self.layers], self.valid.gather(1, order))


def join(blocks: Sequence[Block]) -> Block:
    """Blocks one below the other, left-padded to the widest."""
    if len(blocks) == 1:
        return blocks[0]
    width = max(block.valid.shape[1] for block in blocks)

    def pad(x: Tensor, missing: int) -> Tensor:
        return torch.nn.functional.pad(x, (0, 0, missing, 0)) if missing else x

    def stack(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([pad(part, width - part.shape[2]) for part in parts])

    layers = [
        (stack([block.layers[i][0] for block in blocks]), stack([block.layers[i][1] for block in blocks]))
        for i in range(len(blocks[0].layers))
    ]
    valid = torch.cat([torch.nn.functional.pad(block.valid, (width - block.valid.shape[1], 0)) for block in blocks])
    return Block(layers, valid)
