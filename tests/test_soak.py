"""scripts/soak.py: a leak is told from noise, and the script runs, in small."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ROOT

SCRIPTS = ROOT / "scripts"


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("soak")


def memory(leak: float, seed: int) -> list[float]:
    """500 MiB that wander by some MiB, and grow while they warm up; ``leak`` is in KiB an iteration."""
    noise = np.random.default_rng(seed)
    slow = np.repeat(noise.normal(0, 2, 100), 20)  # what an allocator keeps for a while
    n = np.arange(2000)
    return list(2**20 * (500 - 40 * np.exp(-n / 30) + slow + noise.normal(0, 1, 2000) + leak * n / 1024))


def test_a_leak_is_told_from_noise(soak: Any) -> None:
    assert not any(soak.trend(memory(0, seed)).grows for seed in range(50))
    assert all(soak.trend(memory(10, seed)).grows for seed in range(50))
    assert soak.trend(memory(10, 0)).per_1000 == pytest.approx(10 * 1000 * 1024, rel=0.2)


def test_each_bound_can_break(soak: Any) -> None:
    constant, growing = [7.0] * 2000, list(np.linspace(7, 9, 2000))
    names = ("memory", "descriptors", "threads", "wall_s", "cpu_s")
    trends = {name: soak.trend(constant) for name in names}
    assert soak.broken_bounds(trends, 0.02) == []
    assert len(soak.broken_bounds(trends, 0.03)) == 1
    for name in names:
        assert len(soak.broken_bounds({**trends, name: soak.trend(growing)}, 0.0)) == 1


@pytest.mark.slow
def test_the_script_runs(tmp_path: Path) -> None:
    words = ["--iterations", "25", "--quickstart", "1", "--out", tmp_path]
    done = subprocess.run([sys.executable, SCRIPTS / "soak.py", *map(str, words)], capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr  # so short a run is still warming up
    report = json.loads((tmp_path / "soak.json").read_text())
    assert report["iterations"] == 25
    assert report["sums"]["episodes"] == 100
    assert report["sums"]["injected"]
    assert (done.returncode == 1) == bool(report["broken"])
    assert "| open descriptors |" in (tmp_path / "soak.md").read_text()
    assert len((tmp_path / "soak.csv").read_text().splitlines()) == 3
