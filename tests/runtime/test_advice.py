"""Commands in messages are quoted, and name this interpreter."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest

from sdar_pl.runtime.advice import command


@pytest.mark.parametrize("name", ["a b", "it's", '"', "$HOME", "ü", "a;b", "-x", "new\nline", "`id`", "*"])
def test_a_shell_reads_the_same_words(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(name, "config.yaml")
    words = shlex.split(command("fit", "--config", path))
    assert words[1:-1] == ["-m", "sdar_pl", "fit", "--config"]
    assert Path(words[-1]) == path
    assert not words[-1].startswith("-")


def test_python_is_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "python").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{os.path.dirname(sys.executable)}:{tmp_path}")
    assert command("fit") == "python -m sdar_pl fit"
    monkeypatch.setenv("PATH", str(tmp_path))  # the same file, but an interpreter of another environment
    assert command("fit") == f"{shlex.quote(sys.executable)} -m sdar_pl fit"
    monkeypatch.setenv("PATH", "")
    assert command("fit").startswith(shlex.quote(sys.executable))
