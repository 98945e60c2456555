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
from collections.abc import Iterator, Sequence
from typing import Any

#: process number of the rank that started the others
LEADER = "SDAR_PL_LEADER"
#: what backends say when the process at the other end is gone
PEER_GONE = re.compile(r"closed by peer|reset by peer|Broken pipe|Connection refused|remote process exited|NCCL", re.I)


class Stopped(BaseException):
    """Ctrl-C or SIGTERM: the run ends, and can be resumed. ``signal`` is the number of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


class Guard:
    """Around a run, in every rank. ``resume`` is the advice that goes with the news of its end."""

    def __init__(self) -> None:
        self.resume = ""
        self.children: Sequence[subprocess.Popen[Any]] = ()
        self.told = 0  # the signal, as soon as it has come
        self.stopping = 0  # the same, once the main thread has noticed
        self.held = False

    @property
    def follows(self) -> bool:
        """Whether another process of ours started this one."""
        return os.environ.get(LEADER, str(os.getpid())) != str(os.getpid())

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Take over SIGINT and SIGTERM; the first raises ``Stopped``, the second ends the process at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        if self.follows:
            self._follow()
            yield
            return
        self.told = self.stopping = 0
        os.environ[LEADER] = str(os.getpid())
        ear, mouth = os.pipe()
        os.set_blocking(mouth, False)
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in before:
            signal.signal(number, self._stop)
        woken = signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=(ear,), name="signals", daemon=True).start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(woken)
            os.close(mouth)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.environ.pop(LEADER, None)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Inside, a first signal waits until the end."""
        self.held = True
        try:
            yield
        finally:
            self.held = False
        if self.stopping:
            raise Stopped(self.stopping)

    # ------------------------------------------------------------------ signals

    def _stop(self, number: int, frame: Any) -> None:
        if self.stopping:
            leave(128 + number)
        self.stopping = number
        if not self.held:
            raise Stopped(number)

    def _listen(self, ear: int) -> None:
        """Handlers run between two steps of the interpreter, and the main thread may be waiting for another rank all
        the while: the others are ended from here, and the second signal is heard."""
        while read := os.read(ear, 1):
            if read[0] not in (signal.SIGINT, signal.SIGTERM):
                continue
            if self.told:
                leave(128 + read[0])
            self.told = read[0]
            self.end_children()
            late = threading.Timer(60, leave, [128 + read[0]])  # whatever the main thread hangs on
            late.daemon = True
            late.start()
        os.close(ear)

    # ------------------------------------------------------------------ ranks

    def watch(self, children: Sequence[subprocess.Popen[Any]]) -> None:
        """Rank 0: end the run when one of the ranks that it has started ends badly."""
        self.children = children
        threading.Thread(target=self._watch, name="ranks", daemon=True).start()

    def end_children(self) -> None:
        for child in self.children:
            with contextlib.suppress(OSError):
                child.kill()

    def _watch(self) -> None:
        running = True
        while running:
            running = any(child.poll() is None for child in self.children)
            for rank, child in enumerate(self.children, 1):
                if child.poll() and not self.told:
                    self.end_children()
                    if child.returncode != 2:  # else it has said itself what is wrong
                        how = f"was killed (signal {-child.returncode})" if child.returncode < 0 else "failed"
                        say(f"error: rank {rank} {how}, so the run ends. {self.resume}")
                    leave(2 if child.returncode == 2 else 1)
            time.sleep(0.5)

    def _follow(self) -> None:
        """Other ranks leave signals to rank 0, and end when it is gone."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        leader = int(os.environ[LEADER])

        def look() -> None:
            while os.getppid() == leader:
                time.sleep(0.5)
            if os.environ.get("LOCAL_RANK") == "1":
                say(f"error: rank 0 was killed, so the run ends. {self.resume}")
            leave(1)

        threading.Thread(target=look, name="leader", daemon=True).start()

    def failed(self, error: BaseException) -> None:
        """Before an error is told: let the rank that is the cause speak, and it alone."""
        if self.follows:
            time.sleep(10 if PEER_GONE.search(str(error)) else 3)  # rank 0 ends this process if it says the same
        elif self.children:
            if PEER_GONE.search(str(error)):
                time.sleep(10)  # ``_watch`` finds out who it is
            self.end_children()


def say(words: str) -> None:
    """A line on stderr, where a live line may stand; the cursor that it hides comes back."""
    shown = "\x1b[?25h" if sys.stderr.isatty() else ""
    print(f"{shown}\n{words}" if shown else words, file=sys.stderr, flush=True)


def leave(status: int) -> None:
    """End this process now."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(status)


#: the guard of this process
GUARD = Guard()
