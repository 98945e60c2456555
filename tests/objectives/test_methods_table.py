"""docs/methods.md is current, and the script reports it when it is not."""

from __future__ import annotations

import re
from pathlib import Path

import methods_table
import pytest
from helpers import ROOT


@pytest.fixture(scope="module")
def page() -> str:
    return str(methods_table.page())


def test_the_page_is_current(page: str) -> None:
    assert methods_table.PAGE.read_text(encoding="utf-8") == page, "run: python scripts/methods_table.py"


def test_every_config_has_one_row_that_fits_a_screen(page: str) -> None:
    rows = re.findall(r"^\|.*\(\.\./configs/objectives/(\w+)\.yaml\) \|$", page, re.MULTILINE)
    assert sorted(rows) == sorted(path.stem for path in (ROOT / "configs" / "objectives").glob("*.yaml"))
    cells = [len(re.split(r"(?<!\\)\|", line)) - 2 for line in page.splitlines() if line.startswith("|")]
    assert max(cells) == 5


@pytest.mark.parametrize(
    ("name", "family"),
    [("grpo", "Policy losses"), ("rloo", "Advantages"), ("opsd", "Distillation"), ("opid", "Shapers")],
)
def test_a_method_stands_with_its_family(page: str, name: str, family: str) -> None:
    section = page.split(f"## {family}\n")[1].split("\n## ")[0]
    assert f"objectives/{name}.yaml" in section


@pytest.mark.slow
def test_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods_table, "PAGE", ROOT / "docs" / "absent.md")
    monkeypatch.setattr("sys.argv", ["methods_table.py", "--check"])
    assert methods_table.main() == 1
    assert not methods_table.PAGE.exists()
    monkeypatch.setattr(methods_table, "PAGE", tmp_path / "docs" / "methods.md")
    monkeypatch.setattr("sys.argv", ["methods_table.py"])
    assert methods_table.main() == 0
    monkeypatch.setattr("sys.argv", ["methods_table.py", "--check"])
    assert methods_table.main() == 0


def test_a_config_without_paper_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("# GRPO · formula\n")
    with pytest.raises(SystemExit, match="first line"):
        methods_table.head(path, 3)
