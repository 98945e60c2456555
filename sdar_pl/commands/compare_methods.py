"""``compare --objectives``: methods written as parts of configs/ with overrides.

    grpo,sdar(coefficient=0.2),sdar(gate=centred,coefficient=1)+initial

    methods  = method {"," method}
    method   = part {"+" part}
    part     = (name | file.yaml) ["(" override {"," override} ")"]
    override = key "=" value

A name is a file of the folders beside the recipe (``PART_FOLDERS``). A key is relative to the objective's ``init_args``
(``coefficient``, ``distillation.coefficient``), or a full key that begins with ``model.``, ``data.`` or ``trainer.``.
A value is YAML; inside brackets and quotes it may hold the separators. Parts and overrides apply from left to right.
Left out: whether the keys exist and the values have the right types, which ``fit`` itself decides (compare.py).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sdar_pl.errors import UserError
from sdar_pl.runtime.config_files import read_yaml

#: folders of configs whose files are parts: they change a recipe
PART_FOLDERS = ("objectives", "contexts", "teachers", "models", "hardware")
#: first words of full keys; other keys are the objective's arguments
ROOTS = ("model", "data", "trainer")
CLOSING = {"(": ")", "[": "]", "{": "}"}
LONGEST_FOLDER = 80  # characters; file systems allow 255 bytes


@dataclass(frozen=True)
class Method:
    """One of the compared methods.

    Example: ``sdar(coefficient=0.2)+initial`` has the arguments ``--config=configs/objectives/sdar.yaml``,
    ``--model.objective.init_args.coefficient=0.2``, ``--config=configs/teachers/initial.yaml``.
    """

    name: str  # as in tables: file names without folder and ending, with the overrides
    arguments: tuple[str, ...]  # for fit, in order: --config=FILE and --key=value

    @property
    def has_overrides(self) -> bool:
        return any(not argument.startswith("--config=") for argument in self.arguments)

    @property
    def folder(self) -> str:
        """The name as a directory that needs no quotes in a shell: ``sdar_gate=centred_coefficient=1+initial``.

        A hash of the name stands at the end where characters were replaced or cut off.
        """
        plain = self.name.replace(")", "").replace("(", "_").replace(",", "_")
        safe = re.sub(r"[^\w.+=-]+", "_", plain)[:LONGEST_FOLDER]
        return safe if safe == plain else f"{safe}-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"

    def content(self) -> list[Any]:
        """What decides the method's outcome: the content of its files and its overrides, in order."""
        files = (argument.removeprefix("--config=") for argument in self.arguments)
        return [
            argument if file == argument else read_yaml(Path(file), "--objectives")
            for argument, file in zip(self.arguments, files, strict=True)
        ]


def parse_methods(text: str, recipe: Path) -> list[Method]:
    """The methods of ``--objectives``; names are looked up beside ``recipe``.

    Raises ``UserError`` for what does not follow the grammar, unknown names and methods that are named twice.
    """
    methods: dict[str, Method] = {}
    for word in split(text, ","):
        parts = [parse_part(part, recipe) for part in split(word, "+")]
        method = Method("+".join(name for name, _ in parts), tuple(a for _, arguments in parts for a in arguments))
        if method.folder in methods:
            raise UserError(
                f"--objectives: {method.name!r} is named twice; name it once, or give the files other names"
            )
        methods[method.folder] = method
    return list(methods.values())


def parse_part(part: str, recipe: Path) -> tuple[str, list[str]]:
    """``sdar(coefficient=0.2)`` → (the same in canonical form, its arguments for fit)."""
    match = re.fullmatch(r"([^()]*?)\s*(?:\((.*)\))?", part, re.DOTALL)
    if match is None:
        raise UserError(f"--objectives: {part!r}; must be a name or a file, then maybe (key=value,…)")
    file = find_part(match[1], recipe)
    overrides = [] if match[2] is None else [parse_override(override, part) for override in split(match[2], ",")]
    keys = [key for key, _ in overrides]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"--objectives: {part!r}: {key} is set twice; set it once")
    name = file.stem + (f"({','.join(f'{key}={value}' for key, value in overrides)})" if overrides else "")
    return name, [f"--config={file}", *(f"--{full_key(key)}={value}" for key, value in overrides)]


def parse_override(override: str, part: str) -> tuple[str, str]:
    """``gate=centred`` → (key, value as YAML text)."""
    key, sign, value = (text.strip() for text in override.partition("="))
    if not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", key) or not sign or not value:
        raise UserError(f"--objectives: {part!r}: {override!r}; must be key=value")
    try:
        yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--objectives: {part!r}: the value of {key} is not valid YAML: {error}") from error
    return key, value


def full_key(key: str) -> str:
    """``coefficient`` → ``model.objective.init_args.coefficient``; a key from the root stays."""
    return key if key.split(".")[0] in ROOTS else f"model.objective.init_args.{key}"


def split(text: str, separator: str) -> list[str]:
    """``text`` cut at every ``separator`` outside brackets and quotes. Raises ``UserError`` where one is not closed."""
    parts, open_brackets, quote = [""], "", ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in CLOSING:
            open_brackets += character
        elif character in CLOSING.values():
            if not open_brackets or CLOSING[open_brackets[-1]] != character:
                raise UserError(f"--objectives: {text!r}: {character} closes nothing")
            open_brackets = open_brackets[:-1]
        elif character == separator and not open_brackets:
            parts.append("")
            continue
        parts[-1] += character
    if quote or open_brackets:
        raise UserError(f"--objectives: {text!r}: no {quote or CLOSING[open_brackets[-1]]} at the end")
    return [part.strip() for part in parts]


def find_part(name: str, recipe: Path) -> Path:
    """The file of a part. Raises ``UserError`` with the names that exist beside the recipe."""
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise UserError(f"--objectives: no file {name}")
        return Path(name)
    folders = [above / folder for above in (recipe.parent, recipe.parent.parent) for folder in PART_FOLDERS]
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    names = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    raise UserError(f"--objectives: no {name!r} beside {recipe}; give a file or one of {', '.join(names) or 'none'}")
