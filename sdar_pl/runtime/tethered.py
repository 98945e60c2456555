"""A command whose processes end with the process that started them, on every way out, SIGKILL included.

``start`` runs this file as a keeper. It starts the command in a session of its own and waits for the end of its
standard input, which the operating system closes when the parent ends. Then it ends the whole session.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

#: seconds between SIGTERM and SIGKILL (the variable is for tests)
GRACE = float(os.environ.get("SDAR_PL_GRACE", "10"))


def start(command: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start ``command`` with its output in ``log`` → the keeper, which has the command's exit status."""
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-S", __file__, *command],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,  # Ctrl-C reaches the trainer alone
        )


def end(keeper: subprocess.Popen[bytes]) -> None:
    """End the command and wait until it has ended. A keeper that takes longer goes on by itself."""
    if keeper.stdin is not None:
        with contextlib.suppress(OSError):
            keeper.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        keeper.wait(GRACE + 10)


def keep(command: Sequence[str]) -> int:
    """The keeper: run ``command`` until it ends, or until standard input or the parent does."""
    parent = os.getppid()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    while child.poll() is None:
        # A process that the parent has forked may hold the pipe open: look at the parent as well.
        if select.select([0], [], [], 0.5)[0] or os.getppid() != parent:
            break
    for number, wait in ((signal.SIGTERM, GRACE), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(OSError):
            os.killpg(child.pid, number)
        until = time.monotonic() + wait
        while alive(child) and time.monotonic() < until:
            time.sleep(0.1)
    return child.wait()


def alive(child: subprocess.Popen[bytes]) -> bool:
    """Whether any process of the child's session is left."""
    child.poll()
    try:
        os.killpg(child.pid, 0)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(keep(sys.argv[1:]))
