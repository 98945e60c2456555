"""What the command line says of bad input: one line that names the file and the key."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from sdar_pl.errors import UserError


class PlainParser(argparse.ArgumentParser):
    """Raises ``UserError`` with the name of the subcommand, instead of printing usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog.split()[-1]}: {message}")


def read_configs(arguments: Sequence[str]) -> dict[str, Any]:
    """The ``--config`` files by name. Raises ``UserError`` for one that is missing or no YAML mapping."""
    pairs = zip(arguments, [*arguments[1:], ""], strict=True)
    named = [after if word in ("--config", "-c") else word.partition("=")[2] for word, after in pairs
             if word in ("--config", "-c") or word.startswith("--config=")]  # fmt: skip
    files = {}
    for name in named:
        try:
            files[name] = yaml.safe_load(Path(name).read_text())
        except OSError as error:
            raise UserError(f"--config {name}: {error.strerror}; name a YAML file") from error
        except yaml.YAMLError as error:
            raise UserError(f"--config {name}: not valid YAML: {error}") from error
        if not isinstance(files[name], dict):
            raise UserError(f"--config {name}: holds no keys; look at configs/quickstart.yaml for an example")
    return files


def add_file_name(message: str, files: dict[str, Any], arguments: Sequence[str]) -> str:
    """Add the file that sets the key which the message quotes, unless an option on the command line does."""
    options = {word.partition("=")[0] for word in arguments}
    for quoted, first in re.findall(r"[\"'](\w+(?:\.\w+)+)[\"']|^(\w+(?:\.\w+)+)", message):
        key = quoted or first
        if f"--{key}" in options:
            return message
        path = key.split(".")
        for name, content in reversed(files.items()):
            for part in path:
                content = content.get(part) if isinstance(content, dict) and part in content else None
            if content is not None:
                return f"{message} (in {name})"
    return message


def shorten(message: str) -> str:
    """jsonargparse's account of a parsing error → its heart on one line: the key and what is wrong with it."""
    lines = [line.strip(" -\t") for line in message.splitlines() if line.strip(" -\t")]
    problem = re.sub(r"^Parser key \"?([^\":]+)\"?:?", r"\1:", " ".join(lines))
    return problem[:600]


def behind(error: BaseException) -> UserError | None:
    """The ``UserError`` that caused ``error``, if one did: jsonargparse wraps what an optional part (``Distillation |
    None``) complains of into an account of all that the part might have been."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__
    return cause
