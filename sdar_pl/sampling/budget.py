"""Tokens of a micro-batch, and what happens to one that does not fit into memory: its halves take its place.

The log-probs of a row do not depend on the rows beside it, and a gradient is a sum over rows: halves give the same
values and gradients, to rounding. Left out: updates under DDP and FSDP, whose gradients are reduced while backward runs
(an error there ends the run), and dropout, which draws anew for a half.
"""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from sdar_pl.batch import Batch
from sdar_pl.checks import at_least
from sdar_pl.errors import UserError
from sdar_pl.modeling.logprobs import LogProbs
from sdar_pl.runtime.ranks import distributed

#: "auto" takes no more tokens: beyond, larger micro-batches are not faster
MOST_TOKENS = 16384
#: a forward pass
Read = Callable[[Batch], LogProbs]
REMEDY = (
    "set model.policy.gradient_checkpointing to true, or lower model.policy.logits_chunk or "
    "data.prompter.init_args.max_prompt_tokens"
)


class Budget:
    """How many tokens one forward and backward pass takes; half as many for the next packing after an error.

    An update is two calls, ``forward`` and ``backward``. Between them stands the objective's graph, which is small: the
    model's own graph is held here, so that it can be freed and computed anew.

    Args:
        tokens: tokens of a micro-batch; "auto": fit_to_device.py chooses.

    Raises ``UserError`` for a number below 1.
    """

    def __init__(self, tokens: int | Literal["auto"]) -> None:
        self.auto = tokens == "auto"
        self.tokens = MOST_TOKENS if tokens == "auto" else at_least("data.micro_batch_tokens", tokens, 1)
        self.most = sys.maxsize  # tokens of any pass, known after an error
        self.errors = 0  # out-of-memory errors of the iteration
        self._packed = self.tokens  # what the micro-batches in use were packed with
        self._pass: tuple[Read, Batch] | None = None  # between ``forward`` and ``backward``
        self._outputs: LogProbs | None = None  # with the model's graph; None if it did not fit
        self._leaves: LogProbs | None = None  # the same values, where the objective's graph begins

    def take(self, times: int = 1) -> int:
        """The tokens of the micro-batches that are about to be packed, ``times`` as many as an update's."""
        self._packed = min(self.tokens * times, self.most)
        return self._packed

    def read(self, read: Read, batch: Batch) -> LogProbs:
        """``read(batch)`` without gradient. Raises ``UserError`` if a single row does not fit."""
        return self._read(read, batch, 1)

    def forward(self, read: Read, batch: Batch) -> LogProbs:
        """``read(batch)`` for an update; the caller derives its loss and passes that to ``backward``."""
        if distributed():
            return read(batch)
        self._pass, self._outputs = (read, batch), None
        try:
            values = self._outputs = read(batch)
        except torch.OutOfMemoryError as error:
            self._failed(batch, 1, error)
        if self._outputs is None:
            values = self._halves_read(read, batch, 1)
        self._leaves = _logprobs([_leaf(value) for value in values])
        return self._leaves

    def backward(self, loss: Tensor, weights: Sequence[Tensor]) -> None:
        """Add the gradient of ``loss`` to the ``.grad`` of ``weights``."""
        loss.backward()  # type: ignore[no-untyped-call]
        if self._pass is None or self._leaves is None:
            return
        read, batch = self._pass
        gradients = [None if leaf is None else leaf.grad for leaf in self._leaves]
        whole = self._outputs is not None
        self._pass = self._leaves = None
        if whole:
            self._accumulate(read, batch, gradients, weights, 1)
        else:
            self._accumulate_halves(read, batch, gradients, weights, 1)

    # ------------------------------------------------------------------ halves

    def _read(self, read: Read, batch: Batch, depth: int) -> LogProbs:
        try:
            with torch.no_grad():
                return read(batch)
        except torch.OutOfMemoryError as error:
            self._failed(batch, depth, error)
        return self._halves_read(read, batch, depth)  # out here, the failed pass has been freed

    def _halves_read(self, read: Read, batch: Batch, depth: int) -> LogProbs:
        _free()
        parts = [self._read(read, _part(batch, half), depth + 1) for half in _halves(batch)]
        return _logprobs([None if part[0] is None else torch.cat(part) for part in zip(*parts, strict=True)])

    def _accumulate(
        self, read: Read, batch: Batch, gradients: list[Tensor | None], weights: Sequence[Tensor], depth: int
    ) -> None:
        """Add the gradient of ``weights``, given the ``gradients`` of what ``read(batch)`` returns."""
        done: set[int] = set()
        hooks = [
            weight.register_post_accumulate_grad_hook(lambda weight: done.add(id(weight)))  # type: ignore[no-untyped-call]
            for weight in weights
        ]
        outputs, self._outputs = self._outputs, None
        try:
            outputs = outputs or read(batch)
            used = {number: gradient for number, gradient in enumerate(gradients) if gradient is not None}
            torch.autograd.backward([outputs[n] for n in used], list(used.values()), inputs=list(weights))  # type: ignore[arg-type]
            return
        except torch.OutOfMemoryError as error:
            self._failed(batch, depth, error)
        finally:
            for hook in hooks:
                hook.remove()
        del outputs
        # A weight receives its whole gradient at once, or none: those that have it are left out.
        self._accumulate_halves(read, batch, gradients, [one for one in weights if id(one) not in done], depth)

    def _accumulate_halves(
        self, read: Read, batch: Batch, gradients: list[Tensor | None], weights: Sequence[Tensor], depth: int
    ) -> None:
        _free()
        for half in _halves(batch):
            here = [None if gradient is None else gradient[half] for gradient in gradients]
            self._accumulate(read, _part(batch, half), here, weights, depth + 1)

    def _failed(self, batch: Batch, depth: int, error: torch.OutOfMemoryError) -> None:
        """Count an error and halve what the next packing takes. Raises ``UserError`` where there is no half."""
        rows, length = batch.tokens.shape
        if rows == 1:
            raise UserError(
                f"data.micro_batch_tokens: out of memory with one row of {length:,} tokens at a time; {REMEDY}"
            ) from error
        if not self.errors:
            warnings.warn(
                f"out of memory in a micro-batch of {rows} rows of {length:,} tokens: its halves are computed one "
                "after the other, and data.micro_batch_tokens is halved from the next packing on",
                stacklevel=2,
            )
        self.errors += 1
        self.most = max(1, min(self.most, self._packed >> depth))
        self.tokens = min(self.tokens, self.most)


def _halves(batch: Batch) -> tuple[slice, slice]:
    middle = (len(batch.tokens) + 1) // 2
    return slice(None, middle), slice(middle, None)


def _part(batch: Batch, rows: slice) -> Batch:
    """Some rows of a batch, as ``read`` needs them."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    tensors: dict[str, Any] = {name: value[rows] for name, value in values.items() if isinstance(value, Tensor)}
    return replace(batch, **tensors, teacher_batch=None)


def _logprobs(parts: Sequence[Tensor | None]) -> LogProbs:
    values, *more = parts
    assert values is not None
    return LogProbs(values, *more)


def _leaf(value: Tensor | None) -> Tensor | None:
    if value is None or not value.is_floating_point():
        return value
    return value.detach().requires_grad_()


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
