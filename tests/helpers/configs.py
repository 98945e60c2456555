"""Configurations as the command line understands them: the merged YAML, and the objects that it builds."""

from __future__ import annotations

import contextlib
import io
import json
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
    "hardware": (
        *("household/sdar.yaml", "alfworld/sdar.yaml", "alfworld/conversation.yaml", "webshop/sdar.yaml"),
        "search_qa/sdar.yaml",
    ),
}


def in_configs(file: str | Path) -> Path:
    """A file by its path below ``configs/``, or any by its full path."""
    return CONFIGS / file


def parsed(*files: str | Path, options: Sequence[str] = (), command: str = "fit") -> dict[str, Any]:
    """The merged configuration of ``command``; no model and no environment is loaded."""
    output = io.StringIO()
    arguments = [f"--config={in_configs(file)}" for file in files]
    with contextlib.redirect_stdout(output), pytest.raises(SystemExit) as ended:
        main([command, *arguments, *options, "--print_config"])
    assert ended.value.code == 0
    config = yaml.safe_load(output.getvalue())
    assert isinstance(config, dict)
    return config


def built(*files: str | Path) -> Namespace:
    """The objects of a method's slots, as scripts/methods_table.py builds them."""
    config: Namespace = methods_table.built(*map(in_configs, files))
    return config


#: arguments of ``data`` that belong to methods
FLAGS = ("max_refills", "keep_for_distillation", "train_with_context")


def method_of(*configs: str | Path | dict[str, Any]) -> Namespace:
    """The objects of ``model.objective`` and ``data.advantage``, and the ``FLAGS``, alone.

    A configuration is a file below ``configs/``, or its content.
    """
    texts = []
    for config in configs:
        content = config if isinstance(config, dict) else yaml.safe_load(in_configs(config).read_text(encoding="utf-8"))
        data = content.get("data", {})
        kept = {key: data[key] for key in ("advantage", *FLAGS) if key in data}
        texts.append(json.dumps({"model": {"objective": content["model"]["objective"]}, "data": kept}))
    method: Namespace = methods_table.built(*texts)
    return method
