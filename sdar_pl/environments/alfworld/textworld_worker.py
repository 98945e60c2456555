"""ALFWorld's official engine behind the ``Session`` interface, each session in a process of its own.

The engine's planner library keeps global state, so one process plays one game at a time. A session takes a worker from
the pool and returns it in ``close``. A worker that dies or hangs fails its own session only; the pool starts another. A
worker ends at the end of its input, so none outlives a killed parent. The protocol is one JSON line in each direction.
Run as a module, this file is the worker.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from sdar_pl.environments.base import Session
from sdar_pl.types import Observation

TIMEOUT = 120.0  # seconds; loading a large game takes about two


class WorkerError(RuntimeError):
    """A worker process ended, hung or raised. It fails one session; the pool goes on."""


class Worker:
    """One process that runs the engine."""

    def __init__(self) -> None:
        package_root = str(Path(__file__).resolve().parents[3])
        path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sdar_pl.environments.alfworld.textworld_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            text=True,
        )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: dict[str, str]) -> dict[str, Any]:
        """Send a request and wait for its answer. Raises ``WorkerError``."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
            ready, _, _ = select.select([stdout], [], [], TIMEOUT)
            line = stdout.readline() if ready else ""
        except (OSError, ValueError) as error:  # a broken or closed pipe
            self.kill()
            raise WorkerError(f"the textworld worker ended: {error}") from error
        if not line.endswith("\n"):
            self.kill()
            raise WorkerError("the textworld worker ended" if ready else f"no answer in {TIMEOUT:.0f} s")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # unsent input of a process that has gone
                    pipe.close()


class Pool:
    """Idle workers. The number of processes is the highest number of simultaneous sessions so far."""

    def __init__(self) -> None:
        self._idle: list[Worker] = []
        self._lock = threading.Lock()
        atexit.register(self.close)

    def take(self) -> Worker:
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.alive:
                    return worker
        return Worker()

    def give(self, worker: Worker) -> None:
        if worker.alive:
            with self._lock:
                self._idle.append(worker)

    def close(self) -> None:
        """Kill the idle workers."""
        with self._lock:
            for worker in self._idle:
                worker.kill()
            self._idle.clear()


POOL = Pool()


class TextWorldSession(Session):
    """One episode of the game file at ``path``. ``reset`` and ``step`` raise ``WorkerError``."""

    def __init__(self, path: Path, success_reward: float = 10.0, pool: Pool = POOL) -> None:
        self.path = path
        self.success_reward = success_reward
        self._pool = pool
        self._worker: Worker | None = None
        self._last: Observation | None = None

    def reset(self) -> Observation:
        self._worker = self._worker or self._pool.take()
        try:
            return self._observe({"load": str(self.path)})
        except WorkerError as error:
            raise WorkerError(f"{self.path}: {error}") from None

    def step(self, action: str) -> Observation:
        if self._last is not None and self._last.done:
            return Observation(self._last.text, self._last.admissible, 0.0, True, True)
        return self._observe({"step": action})

    def close(self) -> None:
        if self._worker is not None:
            self._pool.give(self._worker)
            self._worker = None

    def _observe(self, request: dict[str, str]) -> Observation:
        if self._worker is None:
            raise WorkerError("the session is closed, or reset() was not called")
        answer = self._worker.ask(request)
        won = bool(answer["won"])
        reward = self.success_reward if won else 0.0
        self._last = Observation(answer["text"], tuple(answer["admissible"]), reward, won, won)
        return self._last


def main() -> None:
    """The worker: answer the requests on standard input until its end."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the engine's own output must not enter the protocol
    environment = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "load" in request:
                if environment is not None:
                    environment.close()
                environment = load(request["load"])
                state = environment.reset()
            else:
                assert environment is not None
                state, _, _ = environment.step(request["step"])
            answer = {"text": state.feedback, "admissible": state.admissible_commands, "won": bool(state.won)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(answer) + "\n")
        replies.flush()


def load(path: str) -> Any:
    """The official engine with the game file at ``path``, set up as by alfworld."""
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler

    infos = textworld.EnvInfos(won=True, admissible_commands=True, feedback=True)
    return textworld.start(path, infos, wrappers=[AlfredDemangler])


if __name__ == "__main__":
    main()
