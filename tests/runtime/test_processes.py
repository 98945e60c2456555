"""Signals: deferred while a file is written, and obeyed at once the second time."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.runs import ENVIRONMENT

PROGRAM = """
import os, signal, sys
from sdar_pl.runtime.processes import GUARD, Stopped
signals = [getattr(signal, name) for name in sys.argv[1:]]
try:
    with GUARD.active():
        with GUARD.defer():
            for number in signals:
                os.kill(os.getpid(), number)
            print("written", flush=True)
        print("not reached", flush=True)
except Stopped as stopped:
    print("stopped by", stopped.signal, flush=True)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_waits_for_the_end_of_a_write(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name], env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == ["written", f"stopped by {int(getattr(signal, name))}"], done.stderr


def test_the_second_signal_ends_the_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "SIGINT", "SIGINT"],
        env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 128 + signal.SIGINT
    assert "stopped" not in done.stdout
