"""The Markdown pages: their code blocks, commands, names and links."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from helpers import ROOT


def pages() -> list[Path]:
    """README, CONTRIBUTING, SECURITY and every page of docs/ and configs/."""
    top = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
    return [path for path in [*top, *sorted((ROOT / "docs").glob("*.md")), ROOT / "configs/README.md"] if path.exists()]


def named_blocks(page: Path) -> dict[str, str]:
    """Fenced blocks whose first line is a comment with a file name → their text by that name."""
    blocks = re.findall(r"^```(?:python|yaml)\n# (\S+\.\w+)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return dict(blocks)


def commands(page: Path, start: str = "python -m sdar_pl") -> list[list[str]]:
    """Commands of a page that begin with ``start``, as argument lists without it; comments and backticks stripped."""
    text = page.read_text().replace("\\\n", " ")
    found = re.findall(rf"{re.escape(start)}\b[ \t]*([^`\n]*)", text)
    return [shlex.split(command, comments=True) for command in found]


def links(page: Path) -> list[str]:
    """Targets of the page's links and images that are files, without anchors."""
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text()) + re.findall(
        r'(?:src|srcset)="([^"]+)"', page.read_text()
    )
    return [target.partition("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]


def prose(page: Path) -> list[str]:
    """Lines of the page that are neither table nor code block; links count as their text.

    A line of one word is left out: it cannot be broken.
    """
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in text.splitlines() if not line.startswith(("|", "    ")) and " " in line.strip()]
    return [re.sub(r"\]\([^)]*\)", "]", line) for line in lines]
