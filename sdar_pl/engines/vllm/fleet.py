"""Requests over several servers: a session stays with its server, a failing server is left out and readmitted.

A request that fails is sent again with the same seed, to another server if there is one: what is sampled does not
depend on faults. A server that fails ``FAILURES`` times in a row is out. It is readmitted by ``readmit``, which loads
the present adapter and compares the canary.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sdar_pl.engines.vllm.client import Client, FailedError, MissingAdapterError, RefusedError

T = TypeVar("T")

#: failures in a row that put a server out
FAILURES = 3
#: seconds between two tries to readmit a server: the first, and the longest
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0


class NoServerError(Exception):
    """No server has answered for the fleet's ``patience``. The message is the last failure."""


@dataclass
class Member:
    """A server and what is known of its health."""

    client: Client
    failures: int = 0  # in a row
    out: bool = False
    next_try: float = 0.0
    wait: float = FIRST_WAIT


class Fleet(Generic[T]):
    """The servers as one rank uses them.

    Args:
        clients: the servers, at least one.
        readmit: brings a server that was out to the present adapter; raises where that fails.
        concurrency: requests in flight at most.
        patience: seconds without any server before ``NoServerError``.
        first: the server that new sessions are given first: ranks begin at different ones.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        readmit: Callable[[Client], None],
        concurrency: int,
        patience: float,
        first: int = 0,
    ) -> None:
        turn = first % len(clients)
        self.members = [Member(client) for client in [*clients[turn:], *clients[:turn]]]
        self.readmit, self.concurrency, self.patience = readmit, concurrency, patience
        self.sessions: dict[int, Member] = {}
        self.lost = 0  # failed requests that were sent again
        self.last = ""  # failure, with its server
        self._lock, self._readmitting = threading.RLock(), threading.Lock()
        self._alone_since: float | None = None

    @property
    def alive(self) -> list[Member]:
        return [member for member in self.members if not member.out]

    def place(self, sessions: Sequence[int]) -> None:
        """Give sessions without a server one. Neighbours share a server: they are a group, and share its prompt."""
        new = [session for session in sessions if session not in self.sessions]
        alive = self.alive
        for n, session in enumerate(new):
            if alive:
                self.sessions[session] = alive[n * len(alive) // len(new)]

    def release(self, sessions: Sequence[int]) -> None:
        for session in sessions:
            self.sessions.pop(session, None)

    def run(self, asks: Sequence[tuple[int, Callable[[Client], T]]]) -> list[T]:
        """The answers in the order of ``asks``: pairs of a session and what to ask its server.

        Raises ``NoServerError``, and ``RefusedError`` where a server declines a request.
        """
        self.readmit_due()
        self.place([session for session, _ in asks])
        waiting = deque(enumerate(asks))
        answers: dict[int, T] = {}
        errors: list[BaseException] = []

        def work() -> None:
            while not errors:
                try:
                    number, (session, ask) = waiting.popleft()
                except IndexError:
                    return
                try:
                    answers[number] = self._answer(session, ask)
                except BaseException as error:
                    errors.append(error)

        workers = [threading.Thread(target=work, daemon=True) for _ in range(min(self.concurrency, len(asks)))]
        for worker in workers:
            worker.start()
        for worker in workers:
            while worker.is_alive():  # with a time-out, so that a signal is handled
                worker.join(0.5)
        if errors:
            raise errors[0]
        return [answers[number] for number in range(len(asks))]

    # ------------------------------------------------------------------ faults

    def _answer(self, session: int, ask: Callable[[Client], T]) -> T:
        while True:
            member = self._server_of(session)
            if member is None:
                self._wait_for_a_server()
                continue
            try:
                answer = ask(member.client)
            except RefusedError:
                raise
            except FailedError as error:
                self.failed(member, error)
                self._move(session, member)
            else:
                member.failures = 0
                return answer

    def _server_of(self, session: int) -> Member | None:
        with self._lock:
            member = self.sessions.get(session)
            if member is None or member.out:
                loads = Counter(id(one) for one in self.sessions.values())
                member = min(self.alive, key=lambda one: loads[id(one)], default=None)
                if member is not None:
                    self.sessions[session] = member
            return member

    def _move(self, session: int, away: Member) -> None:
        """Give the session another server than ``away``, if there is one."""
        with self._lock:
            others = [member for member in self.alive if member is not away]
            if others and self.sessions.get(session) is away:
                self.sessions[session] = others[session % len(others)]

    def failed(self, member: Member, error: Exception) -> None:
        """Count a failure; the last of ``FAILURES`` in a row, and a missing adapter at once, put the server out."""
        with self._lock:
            self.lost += 1
            member.failures += 1
            self.last = f"{member.client.url}: {error}"
            if member.out or (member.failures < FAILURES and not isinstance(error, MissingAdapterError)):
                return
            self.put_out(member, error)

    def put_out(self, member: Member, error: Exception) -> None:
        """Send the server no requests until it is readmitted."""
        with self._lock:
            member.out, member.wait, member.next_try = True, FIRST_WAIT, time.monotonic()
            self.last = f"{member.client.url}: {error}"
            if not self.alive:
                self._alone_since = time.monotonic()
        warnings.warn(f"vLLM server {member.client.url} is left out for now: {error}", stacklevel=2)

    def readmit_due(self) -> None:
        """Try to readmit the servers that are out and whose waiting time has passed."""
        with self._readmitting:
            for member in self.members:
                if not member.out or time.monotonic() < member.next_try:
                    continue
                try:
                    member.client.reconnect()
                    if not member.client.healthy():
                        raise FailedError("no answer at /health")
                    self.readmit(member.client)
                except (FailedError, RefusedError) as error:
                    self.last = f"{member.client.url}: {error}"
                    member.next_try = time.monotonic() + member.wait
                    member.wait = min(2 * member.wait, LONGEST_WAIT)
                else:
                    member.out, member.failures, self._alone_since = False, 0, None
                    warnings.warn(f"vLLM server {member.client.url} is back", stacklevel=2)

    def _wait_for_a_server(self) -> None:
        self.readmit_due()
        if self.alive:
            return
        with self._lock:
            since = self._alone_since = self._alone_since or time.monotonic()
        if time.monotonic() - since > self.patience:
            raise NoServerError(self.last)
        time.sleep(0.2)
