"""Values that jsonargparse lets through and no part can use: null where the type has none, and numbers that no part
checks itself (NaN, infinities, integers beyond 64 bits, the trainer's, the optimizer's and the scheduler's)."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import math
import re
import typing
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace

from sdar_pl.checks import at_least, between
from sdar_pl.errors import UserError

#: lowest values of the trainer's numbers that Lightning takes without a look
TRAINER = {
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
    "check_val_every_n_epoch": 1,
    "num_sanity_val_steps": -1,
    "min_epochs": 0,
    "min_steps": 0,
    "num_nodes": 1,
}
LARGEST = 2**63 - 1
LONGEST_NAME = 200  # characters of a run's name; file systems allow 255 bytes


def refuse_unusable_values(config: Any, parts: Mapping[str, Any]) -> None:
    """Raises ``UserError`` for the first value of a parsed configuration that no run can use.

    Args:
        config: the configuration of one command.
        parts: key → the class that takes its arguments: model, data, trainer.
    """
    seed = config.get("seed_everything")
    if not isinstance(seed, bool):
        between("seed_everything", seed, 0, 2**32 - 1)
    for key in ("ckpt_path", "run"):
        _check_value(key, config.get(key), str)
    if config.get("ckpt_path") == "":
        raise UserError("ckpt_path: ''; must name a checkpoint, or be left out")
    for key, part in parts.items():
        if key in config and not isinstance(config[key], Namespace):
            raise UserError(f"{key}: must hold keys")
        _check_arguments(key, config.get(key), part)
    for name, low in TRAINER.items():
        at_least(f"trainer.{name}", config.trainer.get(name), low)
    if not str(config.trainer.default_root_dir):
        raise UserError("trainer.default_root_dir: ''; must name a folder")
    name = config.get("run")
    if name is not None and (Path(name).name != name or name in ("", "..") or len(name) > LONGEST_NAME):
        raise UserError(f"run: {name!r}; must be the name of a folder, without / and at most {LONGEST_NAME} characters")


def _check_arguments(key: str, given: Any, part: Any) -> None:
    """Check the arguments ``given`` to ``part``, a class or function, and those inside them."""
    if not isinstance(given, (Namespace, Mapping)):
        return
    parameters: Mapping[str, inspect.Parameter] = {}
    hints: dict[str, Any] = {}
    with contextlib.suppress(NameError, TypeError, ValueError):  # others' classes may hide their types
        parameters = inspect.signature(part).parameters
        hints = typing.get_type_hints(part.__init__ if inspect.isclass(part) else part)
    for name, value in dict(vars(given) if isinstance(given, Namespace) else given).items():
        hint = hints.get(name)
        has_default = name in parameters and parameters[name].default is None
        if value is None and not has_default and hint not in (None, Any) and type(None) not in typing.get_args(hint):
            raise UserError(f"{key}.{name}: null; must have a value")
        _check_value(f"{key}.{name}", value, hint)


def _check_value(key: str, value: Any, hint: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{key}: {value}; must be finite")
    if isinstance(value, int) and abs(value) > LARGEST:
        raise UserError(f"{key}: {value:.3g}; must be at most {LARGEST}")
    if isinstance(value, str) and "\0" in value:
        raise UserError(f"{key}: {value!r}; must have no NUL character")
    group = next((one for one in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(one)), None)
    if isinstance(value, (list, tuple)):
        for element in value:
            _check_value(key, element, group)  # of a list of groups, or None
    elif group is not None and value is not None and not isinstance(value, (Namespace, Mapping)):
        raise UserError(f"{key}: {value!r}; must hold keys")
    if isinstance(value, (Namespace, Mapping)):
        path = value.get("class_path")
        if path is None:
            _check_arguments(key, value, group or dict)
        else:
            module, _, name = path.rpartition(".")
            inside = key if hint is not None else f"{key}.{name}"  # an element of a list
            _check_arguments(inside, value.get("init_args"), getattr(importlib.import_module(module), name))


def try_optimizer(config: Any, optimizer: Callable[..., Any], scheduler: Callable[..., Any] | None) -> None:
    """Make optimizer and scheduler for one weight and step the latter twice. Raises ``UserError`` where that fails.

    Args:
        config: the configuration's ``model``.
        optimizer: weights → optimizer.
        scheduler: optimizer → scheduler of its learning rate; None: constant.
    """
    key = "model.optimizer"
    try:
        made = optimizer([torch.nn.Parameter(torch.zeros(2, 2))])
        if scheduler is not None:
            key = "model.scheduler"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the order of steps
                schedule = scheduler(made)
                metric = [0.0] if hasattr(schedule, "monitor") else []  # Lightning's ReduceLROnPlateau
                for _ in range(2):
                    schedule.step(*metric)
        rates = [group["lr"] for group in made.param_groups]
    except Exception as error:  # every optimizer has errors of its own
        raise UserError(f"{_culprit(key, config, str(error))}: {str(error) or type(error).__name__}") from error
    if not all(math.isfinite(rate) and rate >= 0 for rate in rates):
        raise UserError(f"{key}: its learning rate is {min(rates):g}; must be finite and ≥ 0")


def _culprit(key: str, config: Any, message: str) -> str:
    """The key of the one argument of ``key`` whose name or value stands in the message, or ``key`` itself."""
    part = config.get(key.split(".")[-1])
    arguments = vars(part.get("init_args") or Namespace()) if isinstance(part, Namespace) else {}
    named = [name for name in arguments if re.search(rf"\b{name}\b", message)]
    number = re.search(r"(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)\D*$", message)  # the last one is the value
    valued = [
        name
        for name, value in arguments.items()
        for one in (value if isinstance(value, (list, tuple)) else [value])
        if number and type(one) in (int, float) and one == float(number[1])
    ]
    found = list(dict.fromkeys(named or valued))
    return f"{key}.{found[0]}" if len(found) == 1 else key
