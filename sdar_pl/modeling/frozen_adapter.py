"""A second, frozen adapter beside the trained one on the same base (peft)."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sdar_pl.errors import UserError
from sdar_pl.modeling.sources import brief

#: peft's name of the adapter that is trained
TRAINED = "default"


def refuse_no_adapter(folder: Path, key: str) -> None:
    """Raises ``UserError`` for a folder that is no peft adapter; ``key`` names it in YAML."""
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / file).is_file():
            raise UserError(f"{key}: {folder} has no {file}; name the adapter/ of a run, or another peft folder")


def load_frozen(net: Any, folder: Path, name: str, key: str) -> None:
    """Load the adapter of a folder under ``name``, frozen; its rank and layers may be others than the trained one's.

    Raises ``UserError`` for a folder that is no adapter, or one of another base.
    """
    refuse_no_adapter(folder, key)
    device = str(next(net.parameters()).device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft warns of keys that are refused below
            result = net.load_adapter(str(folder), adapter_name=name, is_trainable=False, torch_device=device)
    except Exception as error:  # every reader of files has errors of its own
        raise UserError(
            f"{key}: the adapter in {folder} does not go on this base model ({brief(error)}); use one that was trained "
            "on model.policy.model"
        ) from error
    if result.unexpected_keys or [key for key in result.missing_keys if f".{name}." in key]:
        raise UserError(
            f"{key}: the adapter in {folder} is of a model with other layers; use one that was trained on "
            "model.policy.model"
        )
    net.set_adapter(TRAINED)


@contextlib.contextmanager
def active(net: Any, name: str) -> Iterator[None]:
    """A block in which the adapter ``name`` is on instead of the trained one."""
    net.set_adapter(name, inference_mode=True)
    try:
        yield
    finally:
        net.set_adapter(TRAINED)
