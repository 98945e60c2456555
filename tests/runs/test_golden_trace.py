"""The numerics of the quickstart, recorded: a change that alters them is seen, whatever else still holds.

``PYTHONPATH=.:tests python tests/runs/test_golden_trace.py`` records golden_trace.json anew. Do that only in a commit
that says which figures change and why.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.runs import ENVIRONMENT, metrics

TRACE = Path(__file__).with_name("golden_trace.json")
COLUMNS = ("loss/total", "loss/distill", "gate/mean", "gap/mean", "train/success", "val/success")
#: of two figures of the same kind of CPU, and of figures of two kinds, whose instructions round differently
SAME_CPU, OTHER_CPU = 1e-4, 1e-2
#: of the eight that are recorded: time is short
ITERATIONS = 4
PANEL = 96  # validation games of the quickstart, and as many training episodes an iteration


def cpu() -> str:
    """The kind of CPU: its model and its widest vector instructions, which decide how sums are rounded."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    model = [fields.get(name, "?") for name in ("model name", "cpu family", "model", "stepping")]
    return " / ".join([*model, torch.backends.cpu.get_cpu_capability()])


def trace(folder: Path, iterations: int) -> list[dict[str, float]]:
    """The quickstart, seed 0, one thread → the columns of metrics.csv, a row an iteration."""
    command = [sys.executable, "-m", "sdar_pl", "fit", "--config", str(ROOT / "configs" / "quickstart.yaml")]
    options = [
        "--trainer.max_epochs",
        str(iterations),
        "--seed_everything",
        "0",
        "--trainer.default_root_dir",
        str(folder),
        "--run",
        "trace",
    ]
    done = subprocess.run(
        [*command, *options], env=ENVIRONMENT, cwd=folder, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [{name: row[name] for name in COLUMNS if name in row} for row in metrics(folder / "trace")]


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_the_quickstart_s_figures_are_the_recorded_ones(tmp_path: Path) -> None:
    recorded = json.loads(TRACE.read_text())
    same = recorded["cpu"] == cpu()
    rows = trace(tmp_path, ITERATIONS)
    expected = recorded["rows"][: ITERATIONS + 1]
    assert [sorted(row) for row in rows] == [sorted(row) for row in expected]
    wrong = []
    for number, (row, wanted) in enumerate(zip(rows, expected, strict=True)):
        for name, value in row.items():
            success = name.endswith("success")
            limit = (1e-9 if same else 1.001 / PANEL) if success else (SAME_CPU if same else OTHER_CPU)
            if abs(value - wanted[name]) > limit:
                wrong.append(f"iteration {number}, {name}: {value} is not {wanted[name]}")
    assert not wrong, "\n".join(wrong)


if __name__ == "__main__":
    import lightning
    import torch
    import transformers

    with tempfile.TemporaryDirectory() as scratch:
        rows = trace(Path(scratch), 8)
    versions = {module.__name__: module.__version__ for module in (lightning, torch, transformers)}
    TRACE.write_text(json.dumps({"cpu": cpu(), "versions": versions, "rows": rows}, indent=1) + "\n")
