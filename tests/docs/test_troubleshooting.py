"""docs/troubleshooting.md quotes errors and warnings as the code has them."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest
from helpers import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
QUOTED = [line.strip() for line in re.findall(r"^ {4}((?:error|warning): .*)$", PAGE, re.MULTILINE)]
GAP = "…"


@cache
def texts() -> list[str]:
    """Every string of the code, with … for what is filled in."""
    found = []
    for path in [*(ROOT / "sdar_pl").rglob("*.py"), *(ROOT / "callbacks").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else GAP for part in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def occurs(quoted: str) -> bool:
    """Whether the pieces between the gaps stand in one string of the code, in order."""
    pieces = re.sub(r"^(error|warning): ", "", quoted).split(GAP)
    # The key's beginning, the command line may add: an objective knows its own part of it only.
    pieces[0] = re.sub(r"^(?:model|data)\.(?=\w)", "", pieces[0])
    pattern = re.compile(".*".join(re.escape(piece.strip()) for piece in pieces), re.DOTALL)
    return any(pattern.search(text) for text in texts())


def test_there_are_quotations() -> None:
    assert len(QUOTED) > 15
    assert not occurs("error: no such text …")


@pytest.mark.parametrize("quoted", QUOTED)
def test_the_code_says_so(quoted: str) -> None:
    assert occurs(quoted)


def test_every_cause_has_a_remedy() -> None:
    for part in PAGE.split("\n### ")[1:]:
        assert "emedy" in part, part.splitlines()[0]
