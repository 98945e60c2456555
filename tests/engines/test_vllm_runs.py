"""Runs on real vLLM (slow; ``SDAR_PL_VLLM`` names the Python of its environment, docs/engines.md): the engine's own
server ends with the run, on every way out."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from helpers.processes import descendants, running, until, words
from helpers.runs import ENVIRONMENT, command
from helpers.vllm import READY, own_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


#: the second iteration's update raises, as a callback of the user's may
CRASH = ["--trainer.callbacks+=helpers.mishap.Mishap", "--trainer.callbacks.when=update", "--trainer.callbacks.how="]


@pytest.mark.parametrize(
    ("way", "status"),
    [("its end", 0), ("an exception", 1), ("SIGINT", 128 + signal.SIGINT), ("SIGKILL", -signal.SIGKILL)],
)
def test_the_own_server_ends_with_the_run(tmp_path: Path, way: str, status: int) -> None:
    """No process is left; the adapters' folder goes as well, except after a SIGKILL."""
    folder, said, seen = tmp_path / "run", tmp_path / "said.txt", set[int]()
    more = ["--trainer.max_epochs", "50"] if way.startswith("SIG") else CRASH if way == "an exception" else []
    arguments = command(tmp_path, "run", *own_server(), *more)

    def look() -> bool:
        """Whether the moment has come; remembers every process of the run."""
        seen.update(descendants(run.pid))
        return way.startswith("SIG") and (folder / "checkpoints" / "last.ckpt").exists()

    with said.open("w") as file:
        run = subprocess.Popen(arguments, env=ENVIRONMENT, stdout=file, stderr=file, cwd=tmp_path)
    try:
        assert until(lambda: look() or run.poll() is not None, 2 * READY)
        if way.startswith("SIG"):
            run.send_signal(getattr(signal, way))
            run.wait(120)
        assert run.returncode == status, said.read_text()
        assert len(seen) >= 4, "the premise: keeper, API server, engine and worker"
        assert until(lambda: not any(map(running, seen)), 60), [words(pid) for pid in seen if running(pid)]
    finally:
        run.kill()
    if way != "SIGKILL":
        assert not (folder / ".adapters").exists()
    assert ("Traceback" in said.read_text()) == (way == "an exception")
