"""Configurations as users write them: YAML read strictly, and the file or option that sets a key.

Strict means: UTF-8 (with or without a byte order mark), no key twice in a mapping, no alias to what encloses it, and
bounds on size, depth and what aliases expand to. PyYAML itself keeps the last of two equal keys without a word.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from sdar_pl.errors import UserError

LARGEST_FILE = 10 * 2**20  # bytes
DEEPEST = 50  # mappings and sequences inside each other
MOST_NODES = 100_000  # after the expansion of aliases


# ---------------------------------------------------------------------- strict YAML


def load(text: str) -> Any:
    """The content of a YAML text. Raises ``yaml.YAMLError`` also for what ``refuse_traps`` refuses."""
    refuse_traps(text)
    return yaml.safe_load(text)


@dataclass
class _Collection:
    """An open mapping or sequence of the event stream."""

    anchor: str | None
    keys: set[str] | None  # None for a sequence
    nodes: int = 1
    children: int = 0

    @property
    def expects_key(self) -> bool:
        return self.keys is not None and self.children % 2 == 0


class TrapError(yaml.YAMLError):
    """Valid YAML that means something else than it seems to, or costs more than its length."""


def refuse_traps(text: str) -> None:
    """Raises ``TrapError`` for keys that stand twice, deep nesting, and aliases that never end or grow too large.

    Reads events, so that neither depth nor aliases cost more than the text's length.
    """
    opened: list[_Collection] = []
    sizes: dict[str, int] = {}  # anchor → nodes below it

    def close(anchor: str | None, nodes: int) -> None:
        if anchor is not None:
            sizes[anchor] = nodes
        if opened:
            opened[-1].nodes += nodes
            opened[-1].children += 1
        if nodes > MOST_NODES or (opened and opened[-1].nodes > MOST_NODES):
            raise TrapError(f"more than {MOST_NODES:,} values after the expansion of its aliases")

    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.ScalarEvent):
            if opened and opened[-1].expects_key:
                keys = opened[-1].keys
                assert keys is not None
                if event.value in keys:
                    raise TrapError(f"the key {event.value!r} stands twice, the second time in line {line}")
                keys.add(event.value)
            close(event.anchor, 1)
        elif isinstance(event, yaml.AliasEvent):
            if any(collection.anchor == event.anchor for collection in opened):
                raise TrapError(f"the alias *{event.anchor} in line {line} refers to what it stands in")
            close(None, sizes.get(str(event.anchor), 1))
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append(_Collection(event.anchor, set() if isinstance(event, yaml.MappingStartEvent) else None))
            if len(opened) > DEEPEST:
                raise TrapError(f"nested more than {DEEPEST} levels deep in line {line}")
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = opened.pop()
            close(closed.anchor, closed.nodes)


# ---------------------------------------------------------------------- files


def read_yaml(path: Path, option: str) -> Any:
    """The content of the YAML file that a command line ``option`` names. Raises ``UserError`` if it cannot be read."""
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{option} {path}: not a regular file; name a YAML file")
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(f"{option} {path}: larger than {LARGEST_FILE // 2**20} MiB; name a YAML file")
        return load(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:  # a name with NUL, text that is not UTF-8
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{option} {path}: {reason}; name a YAML file") from error
    except yaml.YAMLError as error:
        raise UserError(f"{option} {path}: not valid YAML: {error}") from error


def read_config(name: str) -> dict[str, Any]:
    """The content of a ``--config`` file. Raises ``UserError`` for a file that is not a YAML mapping."""
    if not name:
        raise UserError("--config: no file is named; look at configs/quickstart.yaml for an example")
    content = read_yaml(Path(name), "--config")
    if not isinstance(content, dict) or not content:
        raise UserError(f"--config {name}: holds no keys; look at configs/quickstart.yaml for an example")
    if odd := [key for key in content if not isinstance(key, str)]:
        raise UserError(f"--config {name}: the key {odd[0]!r} is not a text; look at configs/quickstart.yaml")
    for key, value in _leaves(content):
        last = key.split(".")[-1]
        if last == "class_path" and not (isinstance(value, str) and value):
            raise UserError(f"{key}: {value!r}; must name a class as package.module.Class (in {name})")
        if last in ("init_args", "dict_kwargs"):
            raise UserError(f"{key}: {value!r}; must hold keys (in {name})")
    return content


# ---------------------------------------------------------------------- where a key was set


class Settings:
    """Everything that a command line sets, in order: the contents of its ``--config`` files, and its options.

    Raises ``UserError`` for a ``--config`` file that cannot be read, and for an option's value with a trap.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.sources: list[tuple[str, Any]] = []  # (place, content)
        words = [*arguments, ""]
        for word, after in pairwise(words):
            option, equals, value = word.partition("=")
            value = value if equals else after
            if option in ("--config", "-c"):
                self.sources.append((f"in {value}", read_config(value)))
            elif option.startswith("--"):
                try:
                    self.sources.append(("on the command line", _nested(option[2:].rstrip("+").split("."), value)))
                except TrapError as error:
                    raise UserError(f"{option}: {error}") from error

    def find(self, key: str) -> tuple[str, str, bool] | None:
        """(the key as its last source writes it, that source, True), or None for a key that nothing sets.

        A value without keys that stands in place of what encloses the key hides the sources before it: (the key of
        that value, its source, False). A text hides nothing: as a class path, it leaves the arguments to the others.
        """
        path = [part for part in key.split(".") if part != "init_args"]
        short = [part for part in path if not part[0].isupper()]  # --trainer.callbacks.keep names no class
        for place, content in reversed(self.sources):
            written, value, complete = _walk(content, path)
            if not complete and short and (other := _walk(content, short))[2]:
                written, value, complete = other
            if complete or not isinstance(value, (dict, str)):
                return ".".join(written).replace(".[", "["), place, complete
        return None

    def find_class(self, path: str) -> tuple[str, str] | None:
        """(the key that names a class, its source), or None for a class that nothing names."""
        name = path.split(".")[-1]
        for place, content in reversed(self.sources):
            for key, value in _leaves(content):
                if isinstance(value, str) and value.split(".")[-1] == name:
                    return key, place
        return None

    def located(self, message: str) -> str:
        """``message`` with the key that it begins with in full, as the user wrote it, and the place that sets it."""
        match = re.match(r"\w+(?:\.\w+)*(?=: |, )", message)
        found = self.find(match[0]) if match else None
        if match is None:
            return message
        if found is None:  # a class path, or a key with its default
            if named := self.find_class(match[0]):
                return f"{named[0].removesuffix('.class_path')}: {message} ({named[1]})"
            around = self.find(match[0].rpartition(".")[0]) if match[0].count(".") > 1 else None
            return message if around is None else f"{message} ({around[0]} {around[1]})"
        key, place, complete = found
        return f"{key}{message[match.end() :]} ({place})" if complete else f"{key}: must hold keys ({place})"


@contextlib.contextmanager
def add_places(arguments: Sequence[str]) -> Iterator[None]:
    """Inside, a ``UserError`` that begins with a key gets the file or option that sets it.

    Raises ``UserError`` for a ``--config`` file that is missing or is not a YAML mapping.
    """
    settings = Settings(arguments)
    try:
        yield
    except UserError as error:
        raise UserError(settings.located(str(error))) from error


def _nested(path: Sequence[str], value: str) -> Any:
    content: Any = value
    try:
        content = load(value)
    except TrapError:
        raise
    except yaml.YAMLError:  # a text
        pass
    for part in reversed(path):
        content = {part: content}
    return content


def _leaves(content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of all values without keys."""
    if isinstance(content, (dict, list)):
        for name, value in content.items() if isinstance(content, dict) else enumerate(content):
            part = f".{name}" if key else str(name)
            yield from _leaves(value, f"{key}{part}" if isinstance(content, dict) else f"{key}[{name}]")
    else:
        yield key, content


def _walk(content: Any, path: Sequence[str]) -> tuple[list[str], Any, bool]:
    """Follow ``path`` into ``content`` as far as it goes → (the way as the content writes it, the value there, whether
    that is the path's end). The content may write ``init_args`` in between; its lists' elements are named by class."""
    if not path:
        return [], content, True
    steps: list[tuple[str, Any, Sequence[str]]] = []
    if isinstance(content, list):
        names = [str(one.get("class_path") if isinstance(one, dict) else one) for one in content]
        steps = [(f"[{n}]", content[n], path[1:]) for n, name in enumerate(names) if name.split(".")[-1] == path[0]]
    elif isinstance(content, dict):
        inner = [(word, content[word], path) for word in ("init_args", "dict_kwargs") if word in content]
        steps = [(path[0], content[path[0]], path[1:])] if path[0] in content else inner
    for name, value, rest in steps:
        written, last, complete = _walk(value, rest)
        if complete or not isinstance(last, dict):
            return [name, *written], last, complete
    return [], {} if isinstance(content, dict) else content, False
