"""Fixtures of the subcommands' tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.comparisons import House


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.setenv("SDAR_PL_RUN_FOLDER", "elsewhere")
    return House(tmp_path)
