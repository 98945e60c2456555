"""docs/methods.md is current, and the script reports it when it is not."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from helpers import ROOT


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("methods_table", ROOT / "scripts" / "methods_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current(script: ModuleType) -> None:
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "run: python scripts/methods_table.py"


def test_every_config_has_one_row_that_fits_a_screen(script: ModuleType) -> None:
    rows = re.findall(r"^\|.*\(\.\./configs/objectives/(\w+)\.yaml\) \|$", script.page(), re.MULTILINE)
    assert sorted(rows) == sorted(path.stem for path in (ROOT / "configs" / "objectives").glob("*.yaml"))
    cells = [len(re.split(r"(?<!\\)\|", line)) - 2 for line in script.page().splitlines() if line.startswith("|")]
    assert max(cells) == 5


@pytest.mark.parametrize(
    ("name", "family"),
    [("grpo", "Policy losses"), ("rloo", "Advantages"), ("opsd", "Distillation"), ("opid", "Shapers")],
)
def test_a_method_stands_with_its_family(script: ModuleType, name: str, family: str) -> None:
    section = script.page().split(f"## {family}\n")[1].split("\n## ")[0]
    assert f"objectives/{name}.yaml" in section


@pytest.mark.slow
def test_check(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "PAGE", ROOT / "docs" / "absent.md")
    monkeypatch.setattr("sys.argv", ["methods_table.py", "--check"])
    assert script.main() == 1
    assert not script.PAGE.exists()
    monkeypatch.setattr(script, "PAGE", tmp_path / "docs" / "methods.md")
    monkeypatch.setattr("sys.argv", ["methods_table.py"])
    assert script.main() == 0
    monkeypatch.setattr("sys.argv", ["methods_table.py", "--check"])
    assert script.main() == 0


def test_a_config_without_paper_is_refused(script: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("# GRPO · formula\n")
    with pytest.raises(SystemExit, match="first line"):
        script.head(path, 3)
