"""Checks of the tasks: types, unique ids, the same for every instance, splits that share nothing."""

from __future__ import annotations

import json
import pickle
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict

from sdar_pl.environments.contract.plays import ContractError, NotCheckedError, Subject
from sdar_pl.environments.observations import brief, text_problem
from sdar_pl.errors import UserError
from sdar_pl.types import Observation, Task


def tasks(subject: Subject) -> Iterator[str]:
    """Every task has an id, a kind and a text; no id occurs twice in a split."""
    for split in subject.splits:
        ids = Counter[str]()
        for task in subject.sampled[split]:
            yield from (f"tasks({split!r}): {problem}" for problem in problems(task))
            ids[repr(task.id)] += 1
        twice = next((task.id for task in subject.sampled[split] if ids[repr(task.id)] > 1), None)
        if twice is not None:
            yield f"tasks({split!r}) has more than one task with the id {brief(twice)}"


def problems(task: Task) -> Iterator[str]:
    """What is wrong with the fields of a task, one line each."""
    for name, value in (("id", task.id), ("kind", task.kind), ("text", task.text)):
        if fault := text_problem(value):
            yield f"Task.{name} {fault}"
        elif not value.strip():
            yield f"Task.{name} is {brief(value)}; must be a text"


def stable(subject: Subject) -> Iterator[str]:
    """``tasks`` returns the same tasks in the same order at every call and in every instance."""
    another = subject.make()
    for split in subject.splits:
        first = _contents(subject.sampled[split])
        if first != _contents(subject.sample(subject.environment, split)):
            yield f"tasks({split!r}) differs between two calls"
        elif first != _contents(subject.sample(another, split)):
            yield f"tasks({split!r}) differs between two instances"


def kinds(subject: Subject) -> Iterator[str]:
    """``kinds`` is a tuple of texts that names every task's kind."""
    named = subject.environment.kinds
    if not isinstance(named, tuple) or not all(isinstance(kind, str) for kind in named):
        yield f"kinds is {brief(named)}; must be a tuple of texts"
        return
    for split in subject.splits:
        missing = sorted({str(task.kind) for task in subject.sampled[split]} - set(named))
        if missing:
            yield f"kinds has no {brief(missing[0])}, the kind of a task in tasks({split!r})"


def splits(subject: Subject) -> Iterator[str]:
    """No two splits share a task, neither an id nor the same kind, text and data under another id."""
    if len(subject.splits) < 2:
        raise NotCheckedError("one split was named")
    owners: dict[object, str] = {}
    for split in subject.splits:
        keys: dict[object, str] = {}
        for task in subject.sampled[split]:
            keys[task.id] = f"the id {brief(task.id)}"
            if task.data is not None:
                keys[task.kind, task.text, repr(task.data)] = f"the data {brief(task.data)}"
        if shared := [key for key in keys if key in owners]:
            yield f"splits {owners[shared[0]]!r} and {split!r} share a task: {keys[shared[0]]}"
        owners.update(dict.fromkeys(keys, split))


def unknown_split(subject: Subject) -> Iterator[str]:
    """``tasks`` raises ``UserError`` for a split that does not exist."""
    name = "no such split"
    try:
        subject.environment.tasks(name)
    except UserError:
        return
    except Exception as error:
        yield f"tasks({name!r}) raised {type(error).__name__}; must raise sdar_pl.errors.UserError"
    else:
        yield f"tasks({name!r}) returned; must raise sdar_pl.errors.UserError for an unknown split"


def plain_data(subject: Subject) -> Iterator[str]:
    """Tasks and observations can be pickled, and saved as JSON without the task's ``data``: checkpoints hold both."""
    for play in subject.random_plays:
        values: list[Task | Observation] = [play.task, *play.observations]
        for value in values:
            name = type(value).__name__
            try:
                json.dumps(asdict(value), default=lambda _: None)
                same = pickle.loads(pickle.dumps(value)) == value
            except Exception as error:
                yield f"{name} of task {play.task.id} cannot be saved: {type(error).__name__}: {brief(str(error))}"
                break
            if not same:
                yield f"{name} of task {play.task.id} differs after pickling"
                break


def untouched(subject: Subject) -> Iterator[str]:
    """Playing a task changes neither its fields nor its ``data``."""
    before = _contents(subject.tasks)  # nothing has been played so far: this check comes before those of the sessions
    with suppress(ContractError):  # reported by ``sessions.episodes``
        assert subject.plays
    for old, new in zip(before, _contents(subject.tasks), strict=True):
        if old != new:
            yield f"task {old[0]} was changed by playing it"


def _contents(listed: list[Task]) -> list[tuple[str, str, str, str]]:
    """All fields, ``data`` by its ``repr`` without addresses; ``Task`` itself compares without ``data``."""
    return [(task.id, task.kind, task.text, re.sub(r" at 0x[0-9a-f]+", "", repr(task.data))) for task in listed]
