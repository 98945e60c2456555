"""Checkpoint files: written atomically, verified before they are loaded, exported as adapters.

A checkpoint holds the trained weights (with LoRA: the adapters), optimizer, loops and callbacks, the rollouts where it
falls inside an iteration, and the *fingerprint* of its run (run_fingerprint.py). It holds no random states, because
every random stream starts from a seed of its own, (seed, purpose, epoch, …). callbacks/checkpoints.py decides when
checkpoints are written.
"""

from __future__ import annotations

import os
import re
import stat
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor

from sdar_pl.errors import UserError
from sdar_pl.runtime.adapter_files import write_adapter_folder
from sdar_pl.runtime.files import replacing
from sdar_pl.runtime.finite import in_words, not_finite
from sdar_pl.runtime.processes import GUARD

#: key of the run's fingerprint in a checkpoint
RUN_FINGERPRINT = "sdar_pl"
#: prefix of peft's own parameter names in a checkpoint
PREFIX = "policy.net."


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's plugin for checkpoints, with atomic writes that a first Ctrl-C does not interrupt."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Raises ``UserError`` if the checkpoint cannot be written or holds weights that are not finite; an earlier
        file of that name stays."""
        target = Path(path)
        if names := not_finite(weights_of(checkpoint)):
            raise UserError(
                f"checkpoint: {target} is not written, as its weights are not finite ({in_words(names)}); lower "
                "model.optimizer's learning rate and go on from the one before"
            )
        with GUARD.defer():
            try:
                with replacing(target) as partial, partial.open("wb") as file:
                    torch.save(checkpoint, file)
            except (OSError, RuntimeError) as error:  # torch.save hides the reason behind a RuntimeError
                reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
                raise UserError(
                    f"checkpoint: cannot write {target} ({reason}); make room, then go on from the one before"
                ) from error


def same_file(source: Path, name: str) -> None:
    """Give ``source`` a second name in its folder: a hard link, or a copy where the file system has no links."""
    with replacing(source.with_name(name)) as partial:
        try:
            os.link(source, partial)
        except OSError:
            partial.write_bytes(source.read_bytes())


# ---------------------------------------------------------------------- verification


def checkpoint_problem(path: Path) -> str:
    """The defect of a checkpoint file as a clause ("it is damaged"), or "" for a valid one."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a device or a pipe would be read without end
            return "it is not a file"
        with zipfile.ZipFile(path) as file:
            if file.testzip() is not None:  # torch.load notices a missing end, but no changed byte
                return "it is damaged"
            if not any(name.endswith("/data.pkl") for name in file.namelist()):
                return "it is not a checkpoint"
        checkpoint = read_checkpoint(path)
    except FileNotFoundError:
        return "there is no such file"
    except zipfile.BadZipFile:
        return "it is cut off, or not a checkpoint" if path.stat().st_size else "it is empty"
    except Exception as error:  # every way in which a foreign pickle can fail
        return f"it cannot be read ({type(error).__name__})"
    if not isinstance(checkpoint, dict) or RUN_FINGERPRINT not in checkpoint:
        return "it is not a checkpoint of sdar_pl"
    run = checkpoint[RUN_FINGERPRINT]
    if not isinstance(run, dict) or not {"model", "fingerprint", "lora", "settings"} <= run.keys():
        return "it is not a checkpoint of this version of sdar_pl"
    if names := not_finite(weights_of(checkpoint)):
        return f"its weights are not finite ({in_words(names)})"
    return ""


def newest_good(path: Path) -> Path:
    """The checkpoint ``path`` if it is valid, or the newest valid one of an iteration for a damaged ``last.ckpt``.

    Warns of the replacement. Raises ``UserError`` if no checkpoint is valid.
    """
    problem = checkpoint_problem(path)
    if not problem:
        return path
    if path.name == "last.ckpt":
        for earlier in reversed(iteration_files(path.parent)):
            if not checkpoint_problem(earlier):
                warnings.warn(f"ckpt_path: {path}: {problem}; {earlier.name} takes its place", stacklevel=2)
                return earlier
    raise UserError(f"ckpt_path: {path}: {problem}; give another checkpoint, or start without one")


def iteration_files(folder: Path) -> list[Path]:
    """The checkpoints of iterations in a folder, the oldest first; other files do not count."""
    found = {path: re.fullmatch(r"iteration-(\d+)\.ckpt", path.name) for path in folder.glob("iteration-*.ckpt")}
    numbers = {path: int(name[1]) for path, name in found.items() if name and path.is_file()}
    return sorted(numbers, key=lambda path: numbers[path])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file, on the CPU. No code in the file runs."""
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return checkpoint


def weights_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The trained weights of a checkpoint and its teacher's."""
    teacher = {f"teacher.{name}": tensor for name, tensor in checkpoint.get("teacher", {}).items()}
    return {**checkpoint.get("state_dict", {}), **teacher}


# ---------------------------------------------------------------------- adapters


def write_adapter(path: Path, folder: Path) -> None:
    """Write the adapters of the checkpoint ``path`` as a peft folder, replacing ``folder``.

    Raises ``UserError`` if the checkpoint has no adapters.
    """
    checkpoint = read_checkpoint(path)
    lora, model = checkpoint[RUN_FINGERPRINT]["lora"], checkpoint[RUN_FINGERPRINT]["model"]["name"]
    if lora is None:
        raise UserError(f"--ckpt_path: {path} holds a whole model and no adapters; add --merge to export it")
    weights = {name.removeprefix(PREFIX): tensor for name, tensor in checkpoint["state_dict"].items()}
    write_adapter_folder(weights, lora, model, folder)
