"""ALFWorld: the 3,827 real household games of ``alfworld-download``.

Two engines play them. ``native`` (the default) is rules.py: plain Python, thousands of times faster, and
checked against the official engine's transcripts. ``textworld`` is the official engine itself, in worker
processes (textworld_worker.py); it needs the packages alfworld and textworld. Left out: the visual
simulator, and the folders with movable receptacles or sliced objects, which the official engine leaves
out too.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from sdar_pl.environments.alfworld.pddl import load_game, read_text
from sdar_pl.environments.base import Session
from sdar_pl.environments.household.game import KINDS, Game
from sdar_pl.environments.household.prompts import HouseholdPrompts, parse_action
from sdar_pl.environments.household.rules import HouseholdSession
from sdar_pl.errors import UserError
from sdar_pl.types import Task

__all__ = ["AlfWorld", "parse_action"]

FOLDER = "json_2.1.1"
GAME_FILE = "game.tw-pddl"
_UNSUPPORTED = ("movable", "Sliced")  # folders that the official engine passes over

_cached_game = lru_cache(maxsize=256)(load_game)


class AlfWorld(HouseholdPrompts):
    """The games below ``<root>/json_2.1.1/<split>/<task folder>/<trial>/``.

    ``root``: that folder's parent or the folder itself; None is ``$ALFWORLD_DATA``, else
    ``~/.cache/alfworld``, where ``alfworld-download`` puts it. ``kinds`` None: all six. Other arguments as
    in ``HouseholdPrompts``; ``success_reward`` is given for the winning step.

    A game file that cannot be read is skipped with a warning and counted in ``skipped``. Raises
    ``UserError`` where there is no data, a kind is unknown or the engine's packages are missing.
    """

    def __init__(
        self,
        root: str | None = None,
        engine: Literal["native", "textworld"] = "native",
        kinds: Sequence[str] | None = None,
        think: bool = True,
        show_admissible: bool = True,
        success_reward: float = 10.0,
    ) -> None:
        super().__init__(think=think, show_admissible=show_admissible)
        self.kinds = KINDS if kinds is None else tuple(kinds)
        for kind in self.kinds or [""]:
            if kind not in KINDS:
                raise UserError(f"alfworld: unknown kind {kind!r}: use some of {', '.join(KINDS)}")
        if engine not in ("native", "textworld"):
            raise UserError(f"alfworld: unknown engine {engine!r}: use native or textworld")
        if engine == "textworld" and not (find_spec("textworld") and find_spec("alfworld")):
            raise UserError("alfworld: engine 'textworld' needs more packages: pip install 'sdar_pl[alfworld]'")
        self.engine = engine
        self.success_reward = success_reward
        self.root = _find(root)
        self.skipped = 0
        self._tasks: dict[str, tuple[Task, ...]] = {}
        self._lock = threading.Lock()

    def tasks(self, split: str) -> Sequence[Task]:
        """The tasks of a split, sorted by id ("valid_seen/pick_…/trial_…"). Read once, then remembered.

        Raises ``UserError`` for an unknown split and for one without a single good game.
        """
        with self._lock:
            if split not in self._tasks:
                self._tasks[split] = self._read(split)
        return self._tasks[split]

    def game(self, task: Task) -> Game:
        """The game behind a task. Raises ``UserError`` where its file is gone or bad."""
        return _cached_game(self.root / task.id / GAME_FILE, task.id)

    def session(self, task: Task) -> Session:
        if self.engine == "native":
            return HouseholdSession(self.game(task), self.success_reward)
        from sdar_pl.environments.alfworld.textworld_worker import TextWorldSession

        return TextWorldSession(self.root / task.id / GAME_FILE, self.success_reward)

    def expert_plan(self, task: Task) -> tuple[str, ...]:
        """The walkthrough that comes with the game: a reference solution."""
        return self.game(task).walkthrough

    def _read(self, split: str) -> tuple[Task, ...]:
        known = sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir())
        if split not in known:
            raise UserError(f"alfworld has no split {split!r}: {self.root} has {', '.join(known) or 'none'}")
        tasks = []
        for path in sorted((self.root / split).glob(f"*/*/{GAME_FILE}")):
            id = path.parent.relative_to(self.root).as_posix()
            kind = path.parent.parent.name.split("-")[0]
            if kind not in self.kinds and (kind in KINDS or any(word in id for word in _UNSUPPORTED)):
                continue
            try:
                if kind not in KINDS:
                    raise UserError(f"{path}: the folder's name begins with no known kind of task")
                tasks.append(Task(id, kind, read_text(path)))
            except UserError as error:
                self.skipped += 1
                warnings.warn(f"alfworld: skipped a bad game: {error}", stacklevel=3)
        if not tasks:
            raise UserError(f"alfworld: no good game in {self.root / split} ({self.skipped} skipped)")
        return tuple(tasks)


def _find(root: str | None) -> Path:
    given = Path(root or os.environ.get("ALFWORLD_DATA") or "~/.cache/alfworld").expanduser()
    if (given / FOLDER).is_dir():
        return given / FOLDER
    if given.name == FOLDER and given.is_dir():
        return given
    raise UserError(f"alfworld: no games at {given / FOLDER}: run alfworld-download, or set root or $ALFWORLD_DATA")
