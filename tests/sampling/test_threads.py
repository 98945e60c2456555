"""run_all: calls in parallel, each with its own time limit. Events decide the order wherever time does not have to."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from helpers import ROOT
from helpers.worlds import eventually

from sdar_pl.sampling import threads
from sdar_pl.sampling.threads import NoAnswerError, TooManyHungError, hung, run_all


def test_results_and_errors_in_the_order_of_the_calls() -> None:
    def fail() -> int:
        raise KeyError("x")

    results = run_all([lambda: 1, fail, lambda: sys.exit(3), lambda: 4], timeout=30, workers=2)
    assert (results[0], results[3]) == (1, 4)
    assert isinstance(results[1], KeyError)
    assert isinstance(results[2], SystemExit)
    assert run_all([], timeout=1, workers=3) == []


def test_as_many_calls_at_once_as_there_are_workers() -> None:
    three = threading.Barrier(3)  # fewer workers would wait here for ever
    most, now, lock = [0], [0], threading.Lock()

    def count() -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        three.wait(30)
        with lock:
            now[0] -= 1
        three.wait(30)

    assert run_all([count] * 12, timeout=60, workers=3) == [None] * 12
    assert most[0] == 3


def test_waiting_for_a_worker_does_not_count() -> None:
    """Fourteen calls of 0.1 s by two threads: the last begins after 0.6 s, beyond the limit of 0.5 s."""
    assert run_all([lambda: time.sleep(0.1) or 7] * 14, timeout=0.5, workers=2) == [7] * 14


def test_hung_calls_use_up_no_workers() -> None:
    hang = threading.Event()
    calls: list[Callable[[], Any]] = [lambda: hang.wait(60)] * 4 + [lambda: 7] * 4
    began = time.monotonic()
    results = run_all(calls, timeout=0.3, workers=2)
    assert time.monotonic() - began < 30
    assert all(isinstance(result, NoAnswerError) for result in results[:4])
    assert results[4:] == [7] * 4
    hang.set()


def test_an_answer_after_the_time_limit_changes_nothing() -> None:
    """Not even while another call is still running: ``last`` lets ``late`` answer and waits for it."""
    let_go, answered = threading.Event(), threading.Event()

    def late() -> int:
        let_go.wait(60)
        answered.set()
        return 1

    def last() -> int:
        time.sleep(0.8)  # begins at 0.6 s and gets past the limit of ``late``, 1 s, within its own
        let_go.set()
        answered.wait(60)
        return 7

    results = run_all([late, lambda: time.sleep(0.6) or 7, last], timeout=1.0, workers=2)
    assert isinstance(results[0], NoAnswerError)
    assert results[1:] == [7, 7]


def test_the_number_of_hung_threads_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_abandoned", [])  # other tests'
    monkeypatch.setattr(threads, "MOST_HUNG", 5)
    let_go, made = threading.Event(), []

    def hang() -> None:
        made.append(1)
        let_go.wait(60)

    for count in (2, 4):  # over several calls of run_all
        assert all(isinstance(r, NoAnswerError) for r in run_all([hang] * 2, timeout=0.1, workers=2))
        assert hung() == count
    with pytest.raises(TooManyHungError, match=r"^[67] calls have not returned, each after its time limit of 0.1 s$"):
        run_all([hang] * 50, timeout=0.1, workers=2)
    assert len(made) <= 7, "the calls that waited are not made"
    let_go.set()
    eventually(lambda: hung() == 0)
    assert run_all([lambda: 7] * 9, timeout=30, workers=3) == [7] * 9, "those that have come back do not count"


def test_a_hung_call_does_not_keep_the_process_alive() -> None:
    program = (
        "import time; from sdar_pl.sampling.threads import run_all\n"
        "print(run_all([lambda: time.sleep(60), lambda: 7], timeout=0.2, workers=2))"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, cwd=ROOT, check=True
    )
    assert "no answer within 0.2 s" in done.stdout
    assert time.monotonic() - began < 40
