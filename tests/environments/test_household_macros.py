"""The macro command "fetch": what it does, what it leaves alone, and when it saves steps."""

from __future__ import annotations

import random

import pytest

from sdar_pl.environments.contract import Subject, check
from sdar_pl.environments.household import Household
from sdar_pl.environments.household.expert import Expert
from sdar_pl.environments.household.game import KINDS
from sdar_pl.environments.household.macros import MacroExpert
from sdar_pl.types import Task

WORLD = Household(size="tiny", macros=True)
TASKS = WORLD.tasks("train")[:120]


def steps(task: Task, player: Expert) -> int:
    """Steps to success; every command must be admissible."""
    session = WORLD.session(task)
    observation, number = session.reset(), 0
    while not observation.done:
        action = player.act(observation)
        assert action in observation.admissible
        observation, number = session.step(action), number + 1
        assert number < 30
    assert observation.success
    return number


def test_fetch_saves_steps_exactly_where_an_object_lies_open() -> None:
    """The label that ToolUse rewards: with the helper games are shorter where it says so, and longer elsewhere."""
    saved: dict[bool, list[int]] = {True: [], False: []}
    for task in TASKS:
        alone, helped = (steps(task, MacroExpert(task.text, random.Random(task.id), share)) for share in (0, 1))
        saved[WORLD.profits_from_tools(task)].append(alone - helped)
    assert sum(saved[True]) / len(saved[True]) > 1
    assert sum(saved[False]) / len(saved[False]) < 0


@pytest.mark.parametrize("kind", KINDS)
def test_fetch_brings_an_open_object_to_the_agent(kind: str) -> None:
    task = next(t for t in TASKS if t.kind == kind and WORLD.profits_from_tools(t))
    session = WORLD.session(task)
    command = session.command  # type: ignore[attr-defined]
    assert command in session.reset().admissible
    answer = session.step(command)
    assert answer.text.startswith(f"You pick up the {command.removeprefix('fetch ')} ")
    assert "carrying: a" in session.step("inventory").text
    assert command not in answer.admissible, "the hands are full"
    assert session.step(command).text == "Nothing happens."


def test_fetch_opens_nothing() -> None:
    task = next(t for t in TASKS if not WORLD.profits_from_tools(t))
    session = WORLD.session(task)
    first = session.reset()
    answer = session.step(session.command)  # type: ignore[attr-defined]
    assert "finds no" in answer.text
    assert answer.admissible == first.admissible


def test_fetch_leaves_what_was_put_down() -> None:
    task = next(t for t in TASKS if t.kind == "pick_two_obj_and_place" and WORLD.profits_from_tools(t))
    session, player = WORLD.session(task), MacroExpert(task.text, random.Random(0))
    observation = session.reset()
    while "You move the" not in observation.text:
        observation = session.step(player.act(observation))
    delivered = observation.text.split("You move the ")[1].split(" to ")[0]
    assert f"You pick up the {delivered} " not in session.step(session.command).text  # type: ignore[attr-defined]


def test_without_macros_nothing_changes() -> None:
    plain = Household(size="tiny")
    for task in TASKS[:12]:
        assert plain.session(task).reset().admissible == tuple(
            c for c in WORLD.session(task).reset().admissible if not c.startswith("fetch ")
        )
        assert not plain.profits_from_tools(task)


def test_the_reference_solution_fetches_where_it_pays() -> None:
    for task in TASKS[:24]:
        fetches = any(action.startswith("fetch ") for action in WORLD.expert_plan(task))
        assert fetches == WORLD.profits_from_tools(task)


def test_the_contract_holds() -> None:
    report = check(Subject(lambda: Household(size="tiny", macros=True), ("train", "validation"), 6))
    assert not {name: lines for name, lines in report.violations.items() if lines}
