"""notebooks/quickstart.ipynb runs from its first cell to its last."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.evidence import required
from helpers.runs import ENVIRONMENT


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nbclient", "nbformat", "ipykernel"):
        required(name, "it runs the notebook; pip install 'sdar_pl[notebook]'")
    import nbclient
    import nbformat

    for name, value in {**ENVIRONMENT, "ITERATIONS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SDAR_PL_RUN_FOLDER", raising=False)
    notebook = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.get("text", "") for output in outputs)
    assert "error: " not in printed
    assert "iteration 1/1" in printed
    assert "'val/success': '0." in printed
    assert any("srcdoc=" in output.get("data", {}).get("text/html", "") for output in outputs), "the report"
    assert "end      " in printed, "play"
    assert printed.split("wrote my-model")[1].strip(), "a text that was generated"
    assert sorted(os.listdir(tmp_path)) == ["my-model", "runs"]
