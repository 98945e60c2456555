"""Checkpoint files: written so that a crash leaves the old one, checked before they are trusted.

A checkpoint holds what is trained (with LoRA: the adapters), optimizer, loops, callbacks, the rollouts where it falls
inside an iteration, and the *fingerprint* of its run. It holds no random states: every random stream begins anew at
its place, from a seed of (seed, epoch, …). When to write them is callbacks/checkpoints.py.
"""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from sdar_pl.errors import UserError
from sdar_pl.runtime.processes import GUARD

#: Key of the run's fingerprint in a checkpoint.
RUN_FINGERPRINT = "sdar_pl"


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, to the disk, and then takes its place: there is never half a file under the name."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Raises ``UserError`` if the disk does not take it; the file before stays."""
        target = Path(path)
        partial = target.with_name(f".{target.name}.partial")
        with GUARD.hold():
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with partial.open("wb") as file:
                    torch.save(checkpoint, file)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(partial, target)
            except (OSError, RuntimeError) as error:  # torch hides the reason behind a RuntimeError
                partial.unlink(missing_ok=True)
                reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
                raise UserError(
                    f"checkpoint: cannot write {target} ({reason}); make room, then go on from the one before"
                ) from error


def same_file(source: Path, name: str) -> None:
    """Give a checkpoint a second name beside it, in place of what has that name now; no second copy where the file
    system can do without."""
    target = source.with_name(name)
    partial = source.with_name(f".{name}.partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        partial.write_bytes(source.read_bytes())
    os.replace(partial, target)


# ---------------------------------------------------------------------- trust


def checkpoint_problem(path: Path) -> str:
    """What is wrong with a checkpoint file, in words; empty if nothing is."""
    try:
        with zipfile.ZipFile(path) as file:
            bad = file.testzip()  # torch.load notices a missing end, but no changed byte
            if bad is not None:
                return "it is damaged"
            if not any(name.endswith("/data.pkl") for name in file.namelist()):
                return "it is no checkpoint"
        known = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        return "there is no such file"
    except zipfile.BadZipFile:
        return "it is cut off, or no checkpoint" if path.stat().st_size else "it is empty"
    except Exception as error:  # every way in which a foreign pickle can fail
        return f"it cannot be read ({type(error).__name__})"
    if not isinstance(known, dict) or RUN_FINGERPRINT not in known:
        return "it is no checkpoint of sdar_pl"
    return ""


def newest_good(path: Path) -> Path:
    """The checkpoint ``path``, or, where ``last.ckpt`` is no good, the newest good one of an iteration, with a warning.

    Raises ``UserError`` if there is none.
    """
    wrong = checkpoint_problem(path)
    if not wrong:
        return path
    if path.name == "last.ckpt":
        earlier = sorted(path.parent.glob("iteration-*.ckpt"), reverse=True)
        for other in earlier:
            if not checkpoint_problem(other):
                warnings.warn(f"ckpt_path: {path}: {wrong}; {other.name} takes its place", stacklevel=2)
                return other
    raise UserError(f"ckpt_path: {path}: {wrong}; give another checkpoint, or start without one")


def fingerprint_of_run(
    base: Mapping[str, Any], weights: str, lora: Mapping[str, Any] | None, method: Mapping[str, Any]
) -> dict[str, Any]:
    """The base model, the adapters and the method of a run, as plain data.

    Args:
        base: where the base model comes from.
        weights: fingerprint of the base model's weights.
        lora: settings of the adapters (None: all weights are trained).
        method: the parts of the method by slot; of an object, its public attributes.
    """
    settings = [described(part, slot) for slot, part in method.items()]
    return {
        "model": dict(base),
        "fingerprint": weights,
        "lora": None if lora is None else dict(lora),
        "method": {name: value for part in settings for name, value in part.items()},
    }


def refuse_mismatch(checkpoint: dict[str, Any], ours: dict[str, Any], training: bool) -> None:
    """Raises ``UserError`` for a checkpoint of another base model or of other adapters than this run's.

    With ``training``, also for a checkpoint of another method. ``ours`` is the ``fingerprint_of_run``.
    """
    theirs = checkpoint.get(RUN_FINGERPRINT)
    if theirs is None:
        raise UserError("ckpt_path: it is no checkpoint of sdar_pl; give another, or start without one")
    if theirs["fingerprint"] != ours["fingerprint"]:
        raise UserError(
            f"ckpt_path: made with the base model {theirs['model']['name']!r}, whose weights are not those of "
            f"model.policy.model {ours['model']['name']!r}; name the former, or start without a checkpoint"
        )
    if theirs["lora"] != ours["lora"]:
        raise UserError(
            f"ckpt_path: made with model.policy.lora {theirs['lora']}, this run has {ours['lora']}; make them the same"
        )
    if training and theirs["method"] != ours["method"]:
        was, now = theirs["method"], ours["method"]
        name = min(name for name in {*was, *now} if was.get(name) != now.get(name))
        raise UserError(
            f"ckpt_path: made with another method ({name}: {was.get(name, 'none')}, here {now.get(name, 'none')}); "
            "make model.objective, data.advantage and model.teacher the same, or start without a checkpoint"
        )


def described(part: Any, name: str) -> dict[str, str]:
    """An object of plain parts → dotted name: value, all the way down; without what is private, such as a state."""
    if isinstance(part, (str, int, float, bool, type(None), tuple, list)):
        return {name: repr(part)}
    found = {name: type(part).__name__}
    for key, value in sorted(vars(part).items()):
        if not key.startswith("_"):
            found |= described(value, f"{name}.{key}")
    return found
