"""Skills on disk: one markdown file each, front matter above the advice.

    ---
    name: clean and place
    description: clean an object and put it in its place
    kinds: [pick_clean_then_place_in_recep]
    ---
    Find the object and take it. …

``kinds`` empty or absent makes a general skill. Left out: subfolders, versions, scores (retrievers.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from sdar_pl.errors import UserError
from sdar_pl.types import Skill, Task

#: the libraries that come with the package
ASSETS = Path(__file__).parent.parent / "assets" / "skills"

_FENCE = "---"
_KEYS = ("name", "description", "kinds")


@dataclass(frozen=True)
class SkillLibrary:
    """Skills in the order of their file names, general ones first. Names are unique."""

    skills: tuple[Skill, ...]

    @classmethod
    def load(cls, folder: str | Path) -> SkillLibrary:
        """All ``*.md`` files of a folder.

        Raises ``UserError`` for a missing or empty folder, front matter that is missing or wrong, a skill
        without text, and two skills of one name.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(f"{folder}: no such skills folder")
        skills = [read_skill(path) for path in sorted(folder.glob("*.md"))]
        if not skills:
            raise UserError(f"{folder}: no skills here: put in at least one .md file")
        if twice := {skill.name for skill in skills if sum(s.name == skill.name for s in skills) > 1}:
            raise UserError(f"{folder}: more than one skill is named {min(twice)!r}")
        return cls(tuple(sorted(skills, key=lambda skill: bool(skill.kinds))))

    @classmethod
    def builtin(cls, name: str) -> SkillLibrary:
        """A library of the package. Raises ``UserError`` for an unknown name."""
        if not (ASSETS / name).is_dir():
            known = ", ".join(sorted(path.name for path in ASSETS.iterdir() if path.is_dir()))
            raise UserError(f"no skill library {name!r} in the package: use one of {known}, or give a folder")
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
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error})") from error
    if not lines or lines[0].strip() != _FENCE:
        raise UserError(f"{path}: no front matter: the first line must be {_FENCE}")
    end = next((k for k, line in enumerate(lines[1:], 1) if line.strip() == _FENCE), 0)
    if not end:
        raise UserError(f"{path}: the front matter does not end: a second line {_FENCE} is missing")
    try:
        head = yaml.safe_load("\n".join(lines[1:end]))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: the front matter is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(head, dict):
        raise UserError(f"{path}: the front matter must be keys and values: {', '.join(_KEYS)}")
    if unknown := [str(key) for key in head if key not in _KEYS]:
        raise UserError(f"{path}: unknown key {unknown[0]!r} in the front matter: use {', '.join(_KEYS)}")
    for key in ("name", "description"):
        if not isinstance(head.get(key), str) or not head[key].strip():
            raise UserError(f"{path}: the front matter needs a {key}: some words")
    kinds = head.get("kinds") or []
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        raise UserError(f"{path}: kinds must be a list of task kinds, such as [pick_and_place_simple]")
    text = "\n".join(lines[end + 1 :]).strip()
    if not text:
        raise UserError(f"{path}: no text below the front matter")
    return Skill(head["name"].strip(), head["description"].strip(), tuple(kinds), text)
