"""Tasks where they arrive: one error in one line, before anything is played."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.example_environment import Guess
from helpers.runs import fit_here

from sdar_pl.environments.household import Household
from sdar_pl.environments.listing import refuse_bad_task, refuse_bad_tasks
from sdar_pl.errors import UserError
from sdar_pl.types import Task


def listing(change: Callable[[list[Task]], Any]) -> Guess:
    return type("Listed", (Guess,), {"tasks": lambda self, split: change(Guess.tasks(self, split))})()


def last(**fields: Any) -> Guess:
    """The last task of a list has other fields."""
    return listing(lambda tasks: [*tasks[:-1], replace(tasks[-1], **fields)])


def _fails(tasks: list[Task]) -> Any:
    raise KeyError("no file")


class Lazy(Sequence[Task]):
    """A thousand tasks, made when they are read; the 700th has no text."""

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: Any) -> Any:
        return Task(str(index), "guess", "" if index == 700 else "guess a number")


@pytest.mark.parametrize(
    ("world", "message"),
    [
        (last(id=7), "Task.id is 7; must be a text"),
        (last(kind=None), "Task.kind is None; must be a text"),
        (last(text=" "), "Task.text is ' '; must be a text"),
        (last(text=b"guess"), "Task.text is b'guess'; must be a text"),
        (last(text="guess \udcff"), r"Task.text has a lone surrogate, '\udcff', at 6"),
        (last(kind="other"), "kinds has no 'other', the kind of a task in tasks('train')"),
        (last(id="train/1"), "has more than one task with the id 'train/1'"),
        (listing(lambda tasks: []), "tasks('train') is empty"),
        (listing(lambda tasks: None), "tasks('train') returned NoneType; must be a sequence, such as a list"),
        (listing(iter), "tasks('train') returned list_iterator; must be a sequence"),
        (listing(lambda tasks: ["guess"]), "tasks('train') holds 'guess'; must be a Task"),
        (listing(_fails), "tasks('train') raised KeyError: \"'no file'\""),
    ],
)
def test_a_bad_list_is_refused(world: Guess, message: str) -> None:
    with pytest.raises(UserError) as caught:
        refuse_bad_tasks(world, "train")
    assert str(caught.value).startswith("data.environment: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_good_ones_pass() -> None:
    refuse_bad_tasks(Guess(), "train")
    refuse_bad_tasks(Household(), "test")
    with pytest.raises(UserError, match="no split 'valid'"):
        refuse_bad_tasks(Guess(), "valid")


def test_what_is_made_when_it_is_read_is_checked_when_it_is_drawn() -> None:
    world = listing(lambda tasks: Lazy())
    refuse_bad_tasks(world, "train")
    with pytest.raises(UserError, match=r"^data\.environment: Task\.text is ''; must be a text$"):
        refuse_bad_task(world.tasks("train")[700])


class Unkind(Guess):  # type: ignore[misc, valid-type]
    """Its last training task has no kind."""

    def tasks(self, split: str) -> Sequence[Task]:
        tasks = list(super().tasks(split))
        return [*tasks[:-1], replace(tasks[-1], kind=None)] if split == "train" else tasks


def test_a_run_ends_before_it_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit_here(tmp_path, "--data.environment", f"{__name__}.Unkind", status=2)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert errors[0].startswith("error: data.environment: tasks('train'): Task.kind is None; must be a text (python -m")
