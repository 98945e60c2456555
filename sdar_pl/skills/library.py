"""Skill libraries: folders with one markdown file per skill, YAML front matter above the text.

    ---
    name: clean and place
    description: clean an object and put it in its place
    kinds: [pick_clean_then_place_in_recep]
    ---
    Find the object and take it. …

A skill without ``kinds`` is general: it is for every task. Left out: subfolders, versions, scores (retrievers.py).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from sdar_pl.checks import one_of
from sdar_pl.errors import UserError
from sdar_pl.runtime.config_files import load
from sdar_pl.types import Skill, Task

#: folder of the package's own libraries
ASSETS = Path(__file__).parent.parent / "assets" / "skills"

_FENCE = "---"
_KEYS = ("name", "description", "kinds")


@dataclass(frozen=True)
class SkillLibrary:
    """Skills in the order of their file names, general ones first. Names are unique.

    Example:
        ``[skill.name for skill in SkillLibrary.builtin("household")][:2] == ["general", "clean and place"]``
    """

    skills: tuple[Skill, ...]

    @classmethod
    def load(cls, folder: str | Path) -> SkillLibrary:
        """All ``*.md`` files of a folder.

        Raises ``UserError`` for a missing or empty folder, missing or wrong front matter, a skill without text, and two
        skills of the same name.
        """
        folder = Path(folder)
        if not os.path.isdir(folder):
            raise UserError(f"data.context.folder: {folder} does not exist; must be a folder of skills (*.md)")
        skills = [read_skill(path) for path in sorted(folder.glob("*.md"))]
        if not skills:
            raise UserError(f"data.context.folder: {folder} has no skills; must hold at least one .md file")
        if twice := [name for name, count in Counter(skill.name for skill in skills).items() if count > 1]:
            raise UserError(f"data.context.folder: {folder} has more than one skill named {min(twice)!r}; rename one")
        return cls(tuple(sorted(skills, key=lambda skill: bool(skill.kinds))))

    @classmethod
    def builtin(cls, name: str) -> SkillLibrary:
        """A library of the package. Raises ``UserError`` for an unknown name."""
        one_of("data.context.library", name, sorted(path.name for path in ASSETS.iterdir() if path.is_dir()))
        return cls.load(ASSETS / name)

    def __len__(self) -> int:
        return len(self.skills)

    def __iter__(self) -> Iterator[Skill]:
        return iter(self.skills)

    def for_task(self, task: Task) -> list[Skill]:
        """The general skills, then those of the task's kind."""
        return [skill for skill in self.skills if not skill.kinds or task.kind in skill.kinds]


def read_skill(path: Path) -> Skill:
    """One skill file. Raises ``UserError`` in one line that names the file."""
    if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe would be waited for
        raise UserError(f"{path}: not a regular file; a skill is a text")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error})") from error
    if not lines or lines[0].strip() != _FENCE:
        raise UserError(f"{path}: has no front matter; the first line must be {_FENCE}")
    end = next((k for k, line in enumerate(lines[1:], 1) if line.strip() == _FENCE), 0)
    if not end:
        raise UserError(f"{path}: the front matter does not end; a second line {_FENCE} must follow it")
    try:
        head = load("\n".join(lines[1:end]))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: the front matter is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(head, dict):
        raise UserError(f"{path}: the front matter must be keys and values: {', '.join(_KEYS)}")
    if unknown := [str(key) for key in head if key not in _KEYS]:
        raise UserError(f"{path}: unknown key {unknown[0]!r} in the front matter; use {', '.join(_KEYS)}")
    for key in ("name", "description"):
        if not isinstance(head.get(key), str) or not head[key].strip():
            raise UserError(f"{path}: the front matter needs a {key}; it must be a text")
    kinds = head.get("kinds") or []
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        raise UserError(f"{path}: kinds must be a list of task kinds, such as [pick_and_place_simple]")
    text = "\n".join(lines[end + 1 :]).strip()
    if not text:
        raise UserError(f"{path}: has no text below the front matter; write the skill there")
    return Skill(head["name"].strip(), head["description"].strip(), tuple(kinds), text)
