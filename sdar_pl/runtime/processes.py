"""Abnormal termination: Ctrl-C, SIGTERM, a rank that dies.

A run's files are valid at any moment (checkpoint_files.py), so stopping needs no saving: rank 0 finishes the write in
progress, ends the other ranks and prints the command that resumes the run. Rank 0 is the *leader*: it starts the other
ranks and receives the signal. Where another launcher starts the ranks (torchrun, SLURM), that launcher ends them.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

#: environment variables through which rank 0 tells the ranks that it starts: its process id,
LEADER = "SDAR_PL_LEADER"
#: the run folder,
RUN_FOLDER = "SDAR_PL_RUN_FOLDER"
#: and the checkpoint to resume from, which rank 0 has verified
CHECKPOINT = "SDAR_PL_CHECKPOINT"
#: error messages of communication backends when the other process has ended
PEER_GONE = re.compile(r"closed by peer|reset by peer|Broken pipe|Connection refused|remote process exited|NCCL", re.I)


class Stopped(BaseException):
    """SIGINT (Ctrl-C) or SIGTERM ends the run, which can be resumed. ``signal`` is the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


class Guard:
    """Active around every run, on every rank. ``advise`` returns how to go on with a run that is stopped."""

    def __init__(self) -> None:
        self.advise: Callable[[], str] = str
        self.children: Sequence[subprocess.Popen[Any]] = ()
        self.signal_received = 0  # the signal's number, as soon as the process has received it
        self.stopping = 0  # the same, once the main thread has handled it
        self.deferred = False

    @property
    def resume(self) -> str:
        """How to go on with the run as it is now, as a sentence; "" where nothing is to be resumed."""
        return self.advise()

    @property
    def is_child(self) -> bool:
        """Whether rank 0 started this process."""
        return os.environ.get(LEADER, str(os.getpid())) != str(os.getpid())

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM: the first raises ``Stopped``, the second ends the process at once."""
        self.advise = str
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        if self.is_child:
            self._follow()
            yield
            return
        self.signal_received = self.stopping = 0
        os.environ[LEADER] = str(os.getpid())
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in handlers:
            signal.signal(number, self._stop)
        wakeup = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=(read_end,), name="signals", daemon=True).start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            os.close(write_end)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            os.environ.pop(LEADER, None)

    @contextlib.contextmanager
    def defer(self) -> Iterator[None]:
        """Defer the first SIGINT or SIGTERM until the block has ended."""
        self.deferred = True
        try:
            yield
        finally:
            self.deferred = False
        if self.stopping:
            raise Stopped(self.stopping)

    # ------------------------------------------------------------------ signals

    def _stop(self, number: int, frame: Any) -> None:
        if self.stopping:
            leave(128 + number)
        self.stopping = number
        if not self.deferred:
            raise Stopped(number)

    def _listen(self, read_end: int) -> None:
        """Receive signals in a thread, end the other ranks at the first and this process at the second.

        Python runs handlers in the main thread only, between two instructions. The main thread may hang in a
        collective, which only the end of the other ranks interrupts.
        """
        while read := os.read(read_end, 1):
            if read[0] not in (signal.SIGINT, signal.SIGTERM):
                continue
            if self.signal_received:
                leave(128 + read[0])
            self.signal_received = read[0]
            self.end_children()
            late = threading.Timer(60, leave, [128 + read[0]])  # the main thread still hangs
            late.daemon = True
            late.start()
        os.close(read_end)

    # ------------------------------------------------------------------ ranks

    def watch(self, children: Sequence[subprocess.Popen[Any]]) -> None:
        """Rank 0: end the run when one of the ranks that it has started fails."""
        self.children = children
        threading.Thread(target=self._watch, name="ranks", daemon=True).start()

    def end_children(self) -> None:
        """Kill the ranks that this process has started."""
        for child in self.children:
            with contextlib.suppress(OSError):
                child.kill()

    def _watch(self) -> None:
        running = True
        while running:
            running = any(child.poll() is None for child in self.children)
            for rank, child in enumerate(self.children, 1):
                if child.poll() and not self.signal_received:
                    self.end_children()
                    if child.returncode != 2:  # a user error: the rank has printed it
                        how = f"was killed (signal {-child.returncode})" if child.returncode < 0 else "failed"
                        print_line(f"error: rank {rank} {how}, so the run ends. {self.resume}")
                    leave(2 if child.returncode == 2 else 1)
            time.sleep(0.5)

    def _follow(self) -> None:
        """Other ranks: ignore signals, which rank 0 handles, and end when rank 0 has ended."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        leader = int(os.environ[LEADER])

        def look() -> None:
            while os.getppid() == leader:
                time.sleep(0.5)
            if os.environ.get("LOCAL_RANK") == "1":
                print_line(f"error: rank 0 was killed, so the run ends. {self.resume}")
            leave(1)

        threading.Thread(target=look, name="leader", daemon=True).start()

    def failed(self, error: BaseException) -> None:
        """Wait before reporting ``error``, so that only the rank that caused the failure prints an error."""
        if self.is_child:
            time.sleep(10 if PEER_GONE.search(str(error)) else 3)  # rank 0 ends this process if it has the same error
        elif self.children:
            if PEER_GONE.search(str(error)):
                time.sleep(10)  # ``_watch`` finds the failed rank and ends this process
            self.end_children()


def print_line(text: str) -> None:
    """Print a line on stderr, below a live line if there is one, and show the cursor that the live line hides."""
    shown = "\x1b[?25h" if sys.stderr.isatty() else ""
    print(f"{shown}\n{text}" if shown else text, file=sys.stderr, flush=True)


def leave(status: int) -> None:
    """End this process at once, without finalisers."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(status)


#: the guard of this process
GUARD = Guard()
