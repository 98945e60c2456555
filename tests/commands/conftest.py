"""Fixtures of the subcommands' tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import CONFIGS
from helpers.comparisons import House
from helpers.models import make_model

from sdar_pl.cli import main


@pytest.fixture
def planned(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """``plan --json`` of a config with options."""

    def call(*configs: str, **options: Any) -> dict[str, Any]:
        words = [f"--{name.replace('__', '.')}={value}" for name, value in options.items()]
        assert main(["plan", *(f"--config={CONFIGS / config}" for config in configs), *words, "--json"]) == 0
        return dict(json.loads(capsys.readouterr().out))

    return call


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that tensors of a few kilobytes do not matter, and with more layers than plan measures."""
    folder = tmp_path_factory.mktemp("small")
    make_model(folder, "qwen2", vocab_size=8192, hidden_size=128, intermediate_size=512, num_hidden_layers=5)
    return folder


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.setenv("SDAR_PL_RUN_FOLDER", "elsewhere")
    return House(tmp_path)
