"""run_all(): calls in parallel on daemon threads, each call with its own time limit.

Executors of the standard library join their threads when the interpreter exits, so that one hung call would keep the
process alive; and a hung call would occupy a worker. Here a hung thread is abandoned, and a fresh one replaces it. No
thread can be ended from outside, so the number of abandoned threads that still run is limited.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import Condition, Thread, current_thread
from typing import TypeVar

T = TypeVar("T")


#: abandoned threads that may still run at a time
MOST_HUNG = 64

_abandoned: list[Thread] = []


class NoAnswerError(Exception):
    """A call did not return in time."""


class TooManyHungError(Exception):
    """More than ``MOST_HUNG`` abandoned threads still run."""


def hung() -> int:
    """The number of abandoned threads of this process that still run."""
    _abandoned[:] = [thread for thread in _abandoned if thread.is_alive()]
    return len(_abandoned)


def run_all(calls: Sequence[Callable[[], T]], timeout: float, workers: int) -> list[T | BaseException]:
    """Run ``calls`` on ``workers`` threads → results in the order of the calls.

    The result of a call that raises is its exception, that of a call that takes longer than ``timeout`` seconds a
    ``NoAnswerError``. A call's time begins when a thread starts it, not while it waits for a thread.

    Raises ``TooManyHungError`` once a call is abandoned while ``MOST_HUNG`` others still run; the calls that wait are
    then not made.
    """
    results: dict[int, T | BaseException] = {}
    running: dict[int, tuple[float, Thread]] = {}
    waiting = list(range(len(calls)))[::-1]
    changed = Condition()

    def work() -> None:
        while True:
            with changed:
                if not waiting:
                    return
                number = waiting.pop()
                running[number] = time.monotonic(), current_thread()
            try:
                result: T | BaseException = calls[number]()
            except BaseException as error:
                result = error
            with changed:
                if running.pop(number, None) is None:
                    return  # past the time limit: another thread has replaced this one
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
            late = [number for number, (began, _) in running.items() if now - began >= timeout]
            for number in late:
                _abandoned.append(running.pop(number)[1])
                results[number] = NoAnswerError(f"no answer within {timeout:g} s")
            if late and hung() > MOST_HUNG:
                waiting.clear()
                raise TooManyHungError(f"{hung()} calls have not returned, each after its time limit of {timeout:g} s")
            start_workers(min(len(late), len(waiting)))
            if len(results) < len(calls):
                began = min((start for start, _ in running.values()), default=now)
                changed.wait(max(began + timeout - time.monotonic(), 0.001))
    return [results[number] for number in range(len(calls))]
