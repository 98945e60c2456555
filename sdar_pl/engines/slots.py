"""Decoding in slots: a fixed number of rows in a fixed cache: every step is the same work at the same addresses.

On a GPU such a step is captured once as a CUDA graph and replayed: a decoding step of a small model is some thousand
kernels of a few microseconds, and starting them one by one from Python takes ten times as long as running them. Each
row's tokens stand at the beginning of its slot, so that a token's column is its position; what stands behind is masked.
A row that has ended gives its slot to the next one. On a CPU the same steps run as they are.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdar_pl.engines.base import Request
from sdar_pl.engines.kv import Block
from sdar_pl.engines.responses import Responses

#: columns of the narrowest slot
FEWEST_COLUMNS = 256


def slot_columns(columns: int) -> int:
    """Width of the slots for rows of ``columns`` tokens: 256, 320, 384, 448, 512, 640 … Few widths, few graphs."""
    step = max(FEWEST_COLUMNS, 1 << (columns - 1).bit_length()) // 8
    return max(FEWEST_COLUMNS, -(-columns // step) * step)


def slot_rows(rows: int, most: int) -> int:
    """Number of slots for ``rows`` rows: the next power of two, at most ``most``."""
    return min(most, 1 << (rows - 1).bit_length())


class Prefilled(NamedTuple):
    """Prompts that were run: the rows of a block, a row for each request, with their next-token logits [n, V]."""

    block: Block
    rows: list[int]
    logits: Tensor
    requests: list[int]


class Slots:
    """n rows of W columns: their caches, and the step that feeds each row a token.

    Args:
        forward: tokens [n, 1], a mask [n, 1, 1, W] to add, positions [n, 1] and a transformers cache → logits [n, V].
        layers: (keys, values) [n, H, W, D] of each layer, finite.
        pool: memory that captured graphs share; None: not captured.
    """

    def __init__(self, forward: Callable[..., Tensor], layers: Sequence[tuple[Tensor, Tensor]], pool: Any) -> None:
        from transformers import DynamicCache

        from sdar_pl.engines.preallocated import SlotLayer

        keys = layers[0][0]
        self.layers, self.pool, self._forward = list(layers), pool, forward
        self.rows, self.width, device = keys.shape[0], keys.shape[2], keys.device
        self.tokens = torch.zeros(self.rows, 1, dtype=torch.long, device=device)
        #: column and position of the token that is fed next
        self.positions = torch.zeros_like(self.tokens)
        self._columns = torch.arange(self.width, device=device)
        self._cache = DynamicCache()
        self._cache.layers = [SlotLayer(k, v, self.positions[:, 0]) for k, v in self.layers]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits = torch.empty(0)  # where the graph leaves them

    def fill(self, places: Sequence[int], block: Block, rows: Sequence[int]) -> None:
        """Put rows of a block into the slots at ``places``."""
        index = torch.tensor(rows, device=block.valid.device)
        slot = torch.tensor(places, device=index.device)
        valid = block.valid[index]
        lengths = valid.sum(1)
        longest = int(lengths.max())
        # A stable sort puts valid columns first, in their order.
        order = torch.argsort((~valid).to(torch.int8), dim=1, stable=True)[:, :longest]
        for mine, theirs in zip(self.layers, block.layers, strict=True):
            for whole, part in zip(mine, theirs, strict=True):
                whole[slot, :, :longest] = part.transpose(1, 2)[index[:, None], order].transpose(1, 2)
        self.positions[slot] = lengths[:, None]

    def take(self, places: Sequence[int]) -> Block:
        """A copy of the rows at ``places``, as a block."""
        index = torch.tensor(places, device=self.positions.device)
        lengths = self.positions[index]
        longest = int(lengths.max())
        layers = [(keys[index, :, :longest], values[index, :, :longest]) for keys, values in self.layers]
        return Block(layers, self._columns[:longest] < lengths)

    def step(self, places: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """Feed the rows at ``places`` a token each → logits [n, V] of all slots, valid until the next step."""
        index = torch.tensor(places, device=self.tokens.device)
        self.tokens[index, 0] = torch.tensor(tokens, device=index.device)
        if self.pool is None:
            logits = self._run()
        else:
            if self._graph is None:
                self._graph, self._logits = self._capture()
            self._graph.replay()
            logits = self._logits
        self.positions[index] += 1
        return logits

    def _run(self) -> Tensor:
        # A row attends to its own columns, the new token's included; an empty slot to whatever its first one holds.
        dtype = self.layers[0][1].dtype
        mask = torch.zeros(self.rows, self.width, dtype=dtype, device=self.tokens.device)
        mask.masked_fill_(self._columns > self.positions, torch.finfo(dtype).min)
        return self._forward(self.tokens, mask[:, None, None], self.positions, self._cache)

    def _capture(self) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """Record the step. What it runs once before, for kernels to be loaded, is written again by every replay."""
        with contextlib.ExitStack() as inside:
            device = self.tokens.device
            if torch.is_autocast_enabled("cuda"):
                # Casts cached before would not be part of the graph: they would outlive a change of the weights.
                inside.enter_context(torch.autocast("cuda", torch.get_autocast_dtype("cuda"), cache_enabled=False))
            apart: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            apart.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(apart):
                self._run()
            torch.cuda.current_stream(device).wait_stream(apart)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                logits = self._run()
            return graph, logits


class SlotPool:
    """Memory for slots of every shape, one shape at a time, and the graphs of the shapes that were used.

    Args:
        forward: as in ``Slots``.
        most: number of slots at most.
    """

    def __init__(self, forward: Callable[..., Tensor], most: int) -> None:
        self._forward, self.most = forward, most
        self._buffers: list[tuple[Tensor, Tensor]] = []
        self._shapes: dict[tuple[int, int], Slots] = {}
        self._graphs: Any = None

    def slots(self, rows: int, width: int, like: Block) -> Slots:
        """At least ``rows`` slots of ``width`` columns for caches ``like`` those; what other slots hold is lost."""
        rows = slot_rows(rows, self.most)
        heads = [(keys[0, :, 0].shape, values[0, :, 0].shape) for keys, values in like.layers]
        if not self._buffers or self._buffers[0][0].numel() < rows * width * heads[0][0].numel():
            self._buffers.clear()
            self._shapes.clear()
            self._graphs = None  # the memory of graphs goes with the last of them
            self._buffers += [
                (k.new_zeros(rows * width * one.numel()), v.new_zeros(rows * width * other.numel()))
                for (k, v), (one, other) in zip(like.layers, heads, strict=True)
            ]
        if (rows, width) not in self._shapes:
            shaped = [
                tuple(
                    buffer[: rows * width * head.numel()].view(rows, head[0], width, head[1])
                    for buffer, head in zip(buffers, pair, strict=True)
                )
                for buffers, pair in zip(self._buffers, heads, strict=True)
            ]
            if like.valid.is_cuda and self._graphs is None:
                self._graphs = torch.cuda.graph_pool_handle()
            self._shapes[rows, width] = Slots(self._forward, shaped, self._graphs)  # type: ignore[arg-type]
        return self._shapes[rows, width]


def decode_in_slots(
    responses: Responses,
    pool: SlotPool,
    width: int,
    leave_share: float,
    prefill: Callable[[list[Request]], Iterator[Prefilled]],
    keep: Callable[[Responses, list[int], Callable[[], Block]], None],
) -> None:
    """Decode all requests; slots are filled again as responses end.

    Args:
        responses: what grows.
        pool: the slots' memory.
        width: columns of a slot, enough for the longest prompt with its response.
        leave_share: responses leave together, once this share of those in slots has ended.
        prefill: runs the prompts of requests, some at a time.
        keep: gets the responses, the numbers of those that have ended, and what copies their caches.
    """
    waiting = deque(range(len(responses.requests)))
    slots: Slots | None = None
    seats, feed = dict[int, int](), list[int]()  # slot → its request; the next token of each slot
    while waiting or seats:
        gone = [slot for slot, number in seats.items() if number in responses.ended]
        if len(gone) >= leave_share * len(seats):
            if slots is not None and gone:
                keep(responses, [seats.pop(slot) for slot in gone], partial(slots.take, gone))
            if waiting:
                new = [waiting.popleft() for _ in range(min(len(waiting), pool.most - len(seats)))]
                for part in prefill([responses.requests[number] for number in new]):
                    if slots is None:
                        slots = pool.slots(len(new), width, part.block)
                        feed = [0] * slots.rows
                    numbers = [new[i] for i in part.requests]
                    free = [slot for slot in range(slots.rows) if slot not in seats][: len(numbers)]
                    slots.fill(free, part.block, part.rows)
                    seats |= zip(free, numbers, strict=True)
                    for slot, token in zip(free, responses.draw(part.logits, numbers), strict=True):
                        feed[slot] = token
                continue
            if slots is not None and seats and slot_rows(len(seats), pool.most) < slots.rows:
                feed, block = [feed[slot] for slot in seats], slots.take(list(seats))
                slots = pool.slots(len(seats), width, block)
                feed += [0] * (slots.rows - len(feed))
                seats = dict(enumerate(seats.values()))
                slots.fill(list(seats), block, list(seats))
        if slots is not None and seats:
            running = [slot for slot, number in seats.items() if number not in responses.ended]
            logits = slots.step(running, [feed[slot] for slot in running])
            feed = responses.draw(logits, [seats.get(slot) for slot in range(slots.rows)])
