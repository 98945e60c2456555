"""The fingerprint of a run: the plain data in a checkpoint that decides which run may go on from it.

- base model and adapters: every use of a checkpoint needs the same;
- settings by their keys in YAML: method, optimizer, data and seed. Training goes on with the same ones alone, except
  for those in ``ADOPTED``, which take the configuration's new value.

What is not in the fingerprint may change: number of iterations, callbacks, engine, ranks and strategy, sizes of
micro-batches, limits of prompts, panels.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from sdar_pl.errors import UserError
from sdar_pl.runtime.checkpoint_files import RUN_FINGERPRINT

#: settings of optimizers that do not decide what their state means: a resumed run takes the configuration's
ADOPTED = ("lr", "weight_decay", "eps")
#: settings of optimizers that change speed and memory alone
IMPLEMENTATION = ("foreach", "fused", "capturable", "differentiable", "params")
PLAIN = (str, int, float, bool, type(None), tuple, list)


def fingerprint_of_run(
    model: Mapping[str, Any], weights: str, lora: Mapping[str, Any] | None, settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The fingerprint, as it stands in a checkpoint.

    Args:
        model: the base model's source (name, GGUF file, whether its weights are random).
        weights: a hash of the base model's weights.
        lora: the adapters' configuration, or None for full fine-tuning.
        settings: the settings that training depends on, by key in YAML, in the order in which they are compared.
    """
    return {
        "model": dict(model),
        "fingerprint": weights,
        "lora": None if lora is None else dict(lora),
        "settings": dict(settings or {}),
    }


def fingerprint_of(policy: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fingerprint of a run with a built Policy."""
    lora = None if policy.lora is None else vars(policy.lora)
    return fingerprint_of_run(vars(policy.source), policy.fingerprint, lora, settings)


def refuse_mismatch(checkpoint: dict[str, Any], ours: dict[str, Any], training: bool) -> dict[str, Any]:
    """Compare the fingerprint of a checkpoint with ``ours`` → the settings that training adopts, with their new values.

    Raises ``UserError`` for another base model, other adapters or, where ``training`` goes on from the checkpoint,
    another setting.
    """
    theirs = checkpoint.get(RUN_FINGERPRINT)
    if theirs is None or "settings" not in theirs:
        raise UserError("ckpt_path: it is not a checkpoint of this version of sdar_pl; start without it")
    was, now = theirs["model"]["name"], ours["model"]["name"]
    if theirs["fingerprint"] != ours["fingerprint"]:
        now = "another model under this name" if was == now else repr(now)
        raise mismatch("model.policy.model", repr(was), f"{now}, whose weights are not the same")
    if theirs["lora"] != ours["lora"]:
        raise mismatch("model.policy.lora", theirs["lora"], ours["lora"])
    if not training:
        return {}
    before, after = theirs["settings"], ours["settings"]
    if before.get("command") != after.get("command"):
        made = before.get("command", "fit")
        raise UserError(
            f"ckpt_path: it is a checkpoint of {made}, with which only {made} goes on; 'python -m sdar_pl export "
            "--merge' writes a model to start from, as model.policy.model"
        )
    keys = [key for key in {**after, **before} if before.get(key) != after.get(key)]
    for key in keys:
        if not is_adopted(key):
            raise mismatch(key, before.get(key), after.get(key))
    return {key: after[key] for key in keys if key in after}


def mismatch(key: str, theirs: Any, ours: Any) -> UserError:
    return UserError(
        f"{key}: the checkpoint has {theirs}, the config {ours}; make them the same, or start without ckpt_path"
    )


def is_adopted(key: str) -> bool:
    """Whether a resumed run takes the configuration's value of this setting: the learning rate's and the like."""
    return key in {f"model.optimizer.{name}" for name in ADOPTED} or key.startswith("model.scheduler.")


# ---------------------------------------------------------------------- objects as settings


def attributes_of(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Objects by key, and their public attributes, all the way down → dotted key → value or class name.

    Private attributes (a state, a cache) are left out.
    """
    values: dict[str, Any] = {}
    for key, part in parts.items():
        if isinstance(part, list | tuple) and not all(isinstance(item, PLAIN) for item in part):
            values |= attributes_of({f"{key}.{number}": item for number, item in enumerate(part)})
        elif isinstance(part, PLAIN):
            values[key] = plain(part)
        else:
            values[key] = type(part).__name__
            public = {f"{key}.{name}": value for name, value in sorted(vars(part).items()) if not name.startswith("_")}
            values |= attributes_of(public)
    return values


def arguments_of(part: Any, key: str, but: tuple[str, ...] = ()) -> dict[str, Any]:
    """An object's class, and the constructor's arguments that it keeps as attributes of their name.

    For objects that hold more than their settings (an environment's tasks). Objects among the arguments are treated
    alike; what is no plain data, and what ``but`` names, is left out.
    """
    values: dict[str, Any] = {key: type(part).__name__}
    for name in inspect.signature(type(part)).parameters:
        value = getattr(part, name, None)
        if name in but or value is None:
            continue
        if isinstance(value, PLAIN):
            values[f"{key}.{name}"] = plain(value)
        elif hasattr(value, "__dict__") and not callable(value):
            values |= arguments_of(value, f"{key}.{name}", but)
    return values


def plain(value: Any) -> Any:
    """A value as ``torch.load`` reads it with ``weights_only``: numbers, None, and the text of all else."""
    return value if isinstance(value, (int, float, str, type(None))) else repr(value)
