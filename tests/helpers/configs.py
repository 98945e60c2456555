"""Configurations as the command line understands them: the merged YAML, and the objects that it builds."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser, Namespace

from helpers import CONFIGS
from sdar_pl import objectives, teachers
from sdar_pl.cli import main
from sdar_pl.skills import providers

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
    """The objects of a method's slots: ``model.{objective, teacher}``, ``data.{advantage, context}`` and its flags."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--model.objective", type=objectives.Objective)
    parser.add_argument("--model.teacher", type=teachers.Teacher)
    parser.add_argument("--data.advantage", type=objectives.Advantage)
    parser.add_argument("--data.context", type=providers.ContextProvider)
    parser.add_argument("--data.train_with_context", type=bool, default=False)
    parser.add_argument("--data.max_refills", type=int, default=0)
    return parser.instantiate(parser.parse_args([f"--config={in_configs(file)}" for file in files]))
