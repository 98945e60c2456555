"""Fixtures of real ALFWorld games; tests that use them are skipped without ../shared, and fail then in CI."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.alfworld import games

from sdar_pl.environments.alfworld import AlfWorld


@pytest.fixture(scope="session")
def root() -> Path:
    """A data folder with the two validation splits."""
    return games()


@pytest.fixture(scope="session")
def world(root: Path) -> AlfWorld:
    return AlfWorld(str(root))


@pytest.fixture
def copied(root: Path, tmp_path: Path) -> Path:
    """A data folder of our own with three good games in the split "train"; the path is json_2.1.1 itself."""
    for source in sorted(root.glob("json_2.1.1/valid_seen/pick_heat*/*/game.tw-pddl"))[:3]:
        path = tmp_path / "json_2.1.1" / "train" / source.relative_to(root / "json_2.1.1" / "valid_seen")
        path.parent.mkdir(parents=True)
        path.write_bytes(source.read_bytes())
    return tmp_path / "json_2.1.1"
