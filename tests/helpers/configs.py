"""Configurations as the command line understands them: the merged YAML, and the objects that it builds."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import methods_table
import pytest
import yaml
from jsonargparse import Namespace

from helpers import CONFIGS
from sdar_pl.cli import main

#: folders of parts → the recipes that their parts are meant for
PARTS = {
    "objectives": ("quickstart.yaml",),
    "teachers": ("quickstart.yaml",),
    "contexts": ("quickstart.yaml", "alfworld/sdar.yaml"),
    "models": ("household/sdar.yaml", "alfworld/sdar.yaml", "alfworld/conversation.yaml"),
    "hardware": ("household/sdar.yaml", "alfworld/sdar.yaml", "alfworld/conversation.yaml"),
}


def in_configs(file: str | Path) -> Path:
    """A file by its path below ``configs/``, or any by its full path."""
    return CONFIGS / file


def parsed(*files: str | Path, options: Sequence[str] = ()) -> dict[str, Any]:
    """The merged configuration of ``fit``; no model and no environment is loaded."""
    output = io.StringIO()
    arguments = [f"--config={in_configs(file)}" for file in files]
    with contextlib.redirect_stdout(output), pytest.raises(SystemExit) as ended:
        main(["fit", *arguments, *options, "--print_config"])
    assert ended.value.code == 0
    config = yaml.safe_load(output.getvalue())
    assert isinstance(config, dict)
    return config


def built(*files: str | Path) -> Namespace:
    """The objects of a method's slots, as scripts/methods_table.py builds them."""
    config: Namespace = methods_table.built(*map(in_configs, files))
    return config
