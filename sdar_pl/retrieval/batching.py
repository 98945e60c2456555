"""Batches across threads: calls that come at about the same time are answered by one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass
class _Batch(Generic[Item, Answer]):
    items: list[Item] = field(default_factory=list)
    answers: Sequence[Answer] = ()
    error: BaseException | None = None
    full: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)


class Batcher(Generic[Item, Answer]):
    """Joins the items of several threads. The first thread of a batch waits for others, then answers for all.

    No thread waits for an earlier batch, and none of our own is started.

    Args:
        answer: items → one answer for each, in their order. What it raises is raised in every thread of the batch.
        most: items of a batch (≥ 1).
        wait: seconds that the first thread waits for others.
    """

    def __init__(self, answer: Callable[[Sequence[Item]], Sequence[Answer]], most: int, wait: float) -> None:
        self.answer, self.most, self.wait = answer, most, wait
        self._lock = threading.Lock()
        self._open: _Batch[Item, Answer] | None = None

    def __call__(self, item: Item) -> Answer:
        with self._lock:
            batch, leads = self._open, self._open is None
            if batch is None:
                batch = self._open = _Batch()
            number = len(batch.items)
            batch.items.append(item)
            if len(batch.items) >= self.most:
                self._open = None
                batch.full.set()
        if not leads:
            batch.done.wait()
        else:
            batch.full.wait(self.wait)
            with self._lock:
                if self._open is batch:
                    self._open = None
            try:
                batch.answers = self.answer(batch.items)
            except BaseException as error:
                batch.error = error
            batch.done.set()
        if batch.error is not None:
            raise batch.error
        return batch.answers[number]


class Breaker:
    """A circuit breaker: after a failure, calls fail at once for ``rest`` seconds instead of failing slowly."""

    def __init__(self, rest: float) -> None:
        self.rest = rest
        self._error: Exception | None = None
        self._until = 0.0

    def refuse(self) -> None:
        """Raises the last failure while the circuit is open."""
        if self._error is not None and time.monotonic() < self._until:
            raise self._error

    def failed(self, error: Exception) -> None:
        self._error, self._until = error, time.monotonic() + self.rest

    def worked(self) -> None:
        self._error = None
