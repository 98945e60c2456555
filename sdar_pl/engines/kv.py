"""Key–value caches of many sessions as padded tensors, and the one operation on them: ``gather`` rows of several.

Rows finish at different times, which leaves masked columns between their tokens; ``gather`` compacts them. Tensors are
wider than what they hold, so that a new token is written behind the last one (preallocated.py) without copying them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdar_pl.errors import UserError

#: spare columns that are added at a time
COLUMNS_AT_ONCE = 64


@dataclass
class Block:
    """n cached rows. ``valid`` [n, T] bool marks the columns in use; ``layers`` holds (keys, values) [n, H, ≥ T, D],
    whose columns behind the first T are spare."""

    layers: list[tuple[Tensor, Tensor]]
    valid: Tensor

    @staticmethod
    def of(cache: Any, valid: Tensor) -> Block:
        """The content of a transformers cache."""
        return Block([getattr(layer, "storage", (layer.keys, layer.values)) for layer in cache.layers], valid)

    def cache(self) -> Any:
        """A transformers cache of these rows."""
        from transformers import DynamicCache

        from sdar_pl.engines.preallocated import PreallocatedLayer

        cache = DynamicCache()
        cache.layers = [PreallocatedLayer(keys, values, self.valid.shape[1]) for keys, values in self.layers]
        return cache


def gather(parts: Sequence[tuple[Block, Sequence[int]]], spare_columns: int = 0) -> Block:
    """Rows of several blocks one below the other, left-padded to the longest, with ``spare_columns`` columns to spare.

    A row may be named more than once (a prompt shared by a group). A block requested unchanged is not copied.
    """
    columns = [_columns(block, rows) for block, rows in parts]
    width = max(valid.shape[1] for _, _, valid in columns)
    if len(parts) == 1 and list(parts[0][1]) == list(range(len(parts[0][0].valid))) and columns[0][1] is None:
        return parts[0][0]

    def copy(number: int, which: int) -> Tensor:
        like = parts[0][0].layers[number][which]
        whole = like.new_empty(sum(len(rows) for _, rows in parts), like.shape[1], width + spare_columns, like.shape[3])
        start = 0
        for (block, _), (index, order, valid) in zip(parts, columns, strict=True):
            source = block.layers[number][which]
            target = whole[start : start + len(index)]
            inner = target[:, :, width - valid.shape[1] : width]
            target[:, :, : width - valid.shape[1]] = 0
            if order is None:
                torch.index_select(source[:, :, : valid.shape[1]], 0, index, out=inner)
            else:
                inner.copy_(source.transpose(1, 2)[index[:, None], order].transpose(1, 2))
            start += len(index)
        return whole

    layers = [(copy(number, 0), copy(number, 1)) for number in range(len(parts[0][0].layers))]
    padded = [torch.nn.functional.pad(valid, (width - valid.shape[1], 0)) for _, _, valid in columns]
    return Block(layers, torch.cat(padded))


def _columns(block: Block, rows: Sequence[int]) -> tuple[Tensor, Tensor | None, Tensor]:
    """(row indices, order of the columns or None for the order that they have, validity) without idle columns."""
    index = torch.tensor(rows, dtype=torch.long, device=block.valid.device)
    valid = block.valid[index]
    width, longest = valid.shape[1], int(valid.sum(1).max())
    if longest == width:
        return index, None, valid
    # A stable sort puts invalid columns first and keeps the order of valid ones.
    order = torch.argsort(valid.to(torch.int8), dim=1, stable=True)[:, width - longest :]
    return index, order, valid.gather(1, order)


def chunks(items: Sequence[tuple[int, int]], budget: int) -> Iterator[list[int]]:
    """Split (number, length) pairs into chunks of at most ``budget`` padded tokens; a longer one goes alone."""
    chunk, longest = list[int](), 0
    for number, length in items:
        longest = max(longest, length)
        if chunk and longest * (len(chunk) + 1) > budget:
            yield chunk
            chunk, longest = [], length
        chunk.append(number)
    if chunk:
        yield chunk


def refuse_partial_caches(config: Any) -> None:
    """Raises ``UserError`` where a layer's cache is anything but all keys and values (sliding window, state space)."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    odd = sorted({type(layer).__name__ for layer in DynamicCache(config=config).layers} - {DynamicLayer.__name__})
    if odd:
        raise UserError(
            f"data.engine: this model's layers cache as {', '.join(odd)}; the transformers engine keeps caches of full "
            "attention only, use another model"
        )
