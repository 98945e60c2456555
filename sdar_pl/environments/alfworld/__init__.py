"""ALFWorld: the 3,827 real household games of ``alfworld-download``.

Two engines play them. ``native`` (the default) is household/rules.py: plain Python, thousands of times faster, and
tested against the official engine's transcripts. ``textworld`` is the official engine itself in worker processes
(textworld_worker.py); it needs the packages alfworld and textworld. Left out: the visual simulator, and folders with
movable receptacles or sliced objects, which the official engine leaves out too.
"""

from __future__ import annotations

import os
import random
import threading
import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from sdar_pl.checks import at_least, one_of
from sdar_pl.environments.action_tags import parse_action
from sdar_pl.environments.alfworld.pddl import load_game, read_text
from sdar_pl.environments.base import Session
from sdar_pl.environments.household.expert import Expert, Novice
from sdar_pl.environments.household.game import KINDS, Game, chosen_kinds
from sdar_pl.environments.household.prompts import HouseholdPrompts
from sdar_pl.environments.household.rules import HouseholdSession
from sdar_pl.environments.listing import refuse_bad_task
from sdar_pl.errors import UserError
from sdar_pl.types import Task

__all__ = ["AlfWorld", "parse_action"]

FOLDER = "json_2.1.1"
GAME_FILE = "game.tw-pddl"
_UNSUPPORTED = ("movable", "Sliced")  # in names of folders that the official engine leaves out

_cached_game = lru_cache(maxsize=256)(load_game)


class BadGameError(Exception):
    """A game that was found bad when it was to be played. The message names its file."""


class AlfWorld(HouseholdPrompts):
    """The games below ``<root>/json_2.1.1/<split>/<task folder>/<trial>/``. Splits: train, valid_seen, valid_unseen.

    Args:
        root: the folder json_2.1.1 or its parent; null means ``$ALFWORLD_DATA`` or, where that variable is not set,
            ``~/.cache/alfworld``, the folder of ``alfworld-download``.
        engine: "native" (our own rules) or "textworld" (the official engine, in processes of its own).
        kinds: task kinds to play; null means all six.
        think: ask for reasoning in <think> tags before the action, and count an output without them as invalid.
        show_admissible: list the admissible commands with every observation.
        success_reward: reward of the step that wins; every other step has reward 0.

    A bad game is skipped and counted in ``skipped``: with a warning when the split is listed, or as a failed session
    (``BadGameError``) if it is found bad only when it is played. Raises ``UserError`` for a folder without a good game,
    an unknown kind or engine, and missing packages.
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
        self.kinds = chosen_kinds(kinds)
        one_of("data.environment.engine", engine, ("native", "textworld"))
        if engine == "textworld" and not (find_spec("textworld") and find_spec("alfworld")):
            raise UserError(
                "data.environment.engine: 'textworld' needs the packages alfworld and textworld; "
                "pip install 'sdar_pl[alfworld]', or use 'native'"
            )
        self.engine = engine
        self.success_reward = at_least("data.environment.success_reward", success_reward, 0)
        self.root = _find(root)
        self._bad: set[str] = set()  # paths of the bad games found so far
        self._tasks: dict[str, tuple[Task, ...]] = {}
        self._lock = threading.Lock()

    def tasks(self, split: str) -> Sequence[Task]:
        """The tasks of a split, sorted by id ("valid_seen/pick_…/trial_…"). They are read once and then cached.

        Raises ``UserError`` for an unknown split and for a split without a good game.
        """
        with self._lock:
            if split not in self._tasks:
                self._tasks[split] = self._read(split)
        return self._tasks[split]

    def game(self, task: Task) -> Game:
        """The game of a task. Raises ``UserError`` for a game file that is missing or bad."""
        return _cached_game(self.root / task.id / GAME_FILE, task.id)

    @property
    def skipped(self) -> int:
        """The number of bad games found so far."""
        return len(self._bad)

    def session(self, task: Task) -> Session:
        """A new session. With the native engine it raises ``BadGameError``; the official engine finds out in reset."""
        if self.engine == "native":
            try:
                return HouseholdSession(self.game(task), self.success_reward)
            except UserError as error:
                self._bad.add(task.id)
                raise BadGameError(error) from None
        from sdar_pl.environments.alfworld.textworld_worker import TextWorldSession

        return TextWorldSession(self.root / task.id / GAME_FILE, self.success_reward)

    def players(self, task: Task, rng: random.Random) -> tuple[Expert, Novice]:
        return Expert(task.text, rng), Novice(task.text, rng)

    def expert_plan(self, task: Task) -> tuple[str, ...]:
        """The walkthrough that comes with the game: a reference solution. Empty for a bad game."""
        try:
            return self.game(task).walkthrough
        except UserError:
            self._bad.add(task.id)
            return ()

    def _read(self, split: str) -> tuple[Task, ...]:
        splits = sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir())
        if split not in splits:
            raise UserError(
                f"data.environment: AlfWorld has no split {split!r}; {self.root} has {', '.join(splits) or 'none'}"
            )
        tasks, skipped = list[Task](), list[UserError]()
        for path in sorted((self.root / split).glob(f"*/*/{GAME_FILE}")):
            id = path.parent.relative_to(self.root).as_posix()
            kind = path.parent.parent.name.split("-")[0]
            if kind not in self.kinds and (kind in KINDS or any(word in id for word in _UNSUPPORTED)):
                continue
            try:
                if kind not in KINDS:
                    raise UserError(f"{path}: the folder's name must begin with one of {', '.join(KINDS)}")
                task = Task(id, kind, read_text(path))
                refuse_bad_task(task)  # the names of folders may be no Unicode
                tasks.append(task)
            except UserError as error:
                self._bad.add(id)
                skipped.append(error)
        if not tasks:
            first = f"; the first: {skipped[0]}" if skipped else ""
            raise UserError(
                f"data.environment.root: no good game in {self.root / split} ({len(skipped)} skipped{first})"
            )
        for reason in skipped:
            warnings.warn(f"data.environment: skipped a bad game: {reason}", stacklevel=3)
        return tuple(tasks)


def _find(root: str | None) -> Path:
    """The folder json_2.1.1. Raises ``UserError`` where it does not exist."""
    path = Path(root or os.environ.get("ALFWORLD_DATA") or "~/.cache/alfworld").expanduser()
    if (path / FOLDER).is_dir():
        return path / FOLDER
    if path.name == FOLDER and path.is_dir():
        return path
    raise UserError(
        f"data.environment.root: no games at {path / FOLDER}; run alfworld-download, or set this key or $ALFWORLD_DATA"
    )
