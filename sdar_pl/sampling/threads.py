"""run_all(): calls in parallel, each with its own time limit, by threads that nobody waits for.

Executors of the standard library join their threads when the interpreter exits, so that one hung call would keep the
process alive; and a hung call uses up a worker. Here threads are daemons, and one that hangs is left to itself while a
fresh one takes its place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import Condition, Thread
from typing import TypeVar

T = TypeVar("T")


class NoAnswerError(Exception):
    """A call did not return in time."""


def run_all(calls: Sequence[Callable[[], T]], timeout: float, workers: int) -> list[T | BaseException]:
    """Results in the order of ``calls``; what a call raised stands for its result, ``NoAnswerError`` for one that took
    longer than ``timeout`` seconds. A call's time begins when a thread takes it up."""
    results: dict[int, T | BaseException] = {}
    running: dict[int, float] = {}
    waiting = list(range(len(calls)))[::-1]
    changed = Condition()

    def work() -> None:
        while True:
            with changed:
                if not waiting:
                    return
                number = waiting.pop()
                running[number] = time.monotonic()
            try:
                result: T | BaseException = calls[number]()
            except BaseException as error:
                result = error
            with changed:
                if running.pop(number, None) is None:
                    return  # given up meanwhile; another thread has this one's place
                results[number] = result
                if len(results) == len(calls):
                    changed.notify()

    def start_workers(count: int) -> None:
        for _ in range(count):
            Thread(target=work, name="session", daemon=True).start()

    start_workers(min(workers, len(calls)))
    with changed:
        while len(results) < len(calls):
            now = time.monotonic()
            late = [number for number, began in running.items() if now - began >= timeout]
            for number in late:
                del running[number]
                results[number] = NoAnswerError(f"no answer within {timeout:g} s")
            start_workers(min(len(late), len(waiting)))
            if len(results) < len(calls):
                began = min(running.values(), default=now)
                changed.wait(max(began + timeout - time.monotonic(), 0.001))
    return [results[number] for number in range(len(calls))]
