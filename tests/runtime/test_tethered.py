"""A tethered command ends with its parent, on every way out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.processes import running, until

from sdar_pl.runtime import tethered

#: starts a child of its own, as vLLM does, writes both process ids, and ignores SIGTERM in the child
COMMAND = """
import os, signal, subprocess, sys, time
inner = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-S", "-c", inner])
open(sys.argv[1] + ".new", "w").write(f"{os.getpid()} {child.pid}")
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(60)
"""
#: a trainer that starts it and waits
PARENT = """
import os, sys, time
from pathlib import Path
from sdar_pl.runtime import tethered
keeper = tethered.start([sys.executable, "-S", "-c", sys.argv[2], sys.argv[1]], os.environ, Path(sys.argv[1] + ".log"))
time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc")
@pytest.mark.parametrize("way", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_it_ends_with_its_parent(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pids = tmp_path / "pids"
    monkeypatch.setenv("SDAR_PL_GRACE", "0.5")
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(pids), COMMAND])
    try:
        assert until(pids.exists, 60)
        outer, inner = map(int, pids.read_text().split())
        assert running(outer)
        assert running(inner)
        parent.send_signal(getattr(signal, way))
        parent.wait(20)
        assert until(lambda: not running(outer) and not running(inner), 25)
    finally:
        parent.kill()


def test_end_ends_it_and_the_status_is_the_command_s(tmp_path: Path) -> None:
    keeper = tethered.start([sys.executable, "-S", "-c", "raise SystemExit(7)"], os.environ, tmp_path / "log")
    assert keeper.wait(20) == 7
    keeper = tethered.start([sys.executable, "-S", "-c", "import time; time.sleep(60)"], os.environ, tmp_path / "log")
    began = time.monotonic()
    tethered.end(keeper)
    assert time.monotonic() - began < 15
