"""Runs on real vLLM (slow; ``SDAR_PL_VLLM`` names the Python of its environment, docs/engines.md): the engine's own
server ends with the run, also where the run is killed."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from helpers.processes import descendants, running, until, words
from helpers.runs import ENVIRONMENT, command
from helpers.vllm import READY, own_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("way", ["its end", "SIGKILL in mid-run"])
def test_the_own_server_ends_with_the_run(tmp_path: Path, way: str) -> None:
    folder, said, seen = tmp_path / "run", tmp_path / "said.txt", set[int]()
    arguments = command(tmp_path, "run", *own_server(), "--trainer.max_epochs", "2" if way == "its end" else "50")

    def look() -> bool:
        """Whether the moment has come; remembers every process of the run."""
        seen.update(descendants(run.pid))
        return way.startswith("SIGKILL") and (folder / "checkpoints" / "last.ckpt").exists()

    with said.open("w") as file:
        run = subprocess.Popen(arguments, env=ENVIRONMENT, stdout=file, stderr=file, cwd=tmp_path)
    try:
        assert until(lambda: look() or run.poll() is not None, 2 * READY)
        if way == "its end":
            assert run.returncode == 0, said.read_text()
        else:
            run.send_signal(getattr(signal, way.split()[0]))
            run.wait(60)
            assert run.returncode == -signal.SIGKILL, said.read_text()
        assert len(seen) >= 4, "the premise: keeper, API server, engine and worker"
        assert until(lambda: not any(map(running, seen)), 60), [words(pid) for pid in seen if running(pid)]
    finally:
        run.kill()
    if "SIGKILL" not in way:
        assert not (folder / ".adapters").exists()
        assert "Traceback" not in said.read_text()
