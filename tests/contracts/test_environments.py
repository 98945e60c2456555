"""The contract of environments: every class keeps it, and every check finds the class that breaks its clause."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from helpers.alfworld import games
from helpers.evidence import required
from helpers.example_environment import BROKEN, Broken, Guess

from sdar_pl.environments.alfworld import AlfWorld
from sdar_pl.environments.base import Environment
from sdar_pl.environments.contract import CHECKS, Subject, check
from sdar_pl.environments.faults import Faulty
from sdar_pl.environments.gym_text import GymText
from sdar_pl.environments.household import Household
from sdar_pl.environments.reasoning_gym import ReasoningGym
from sdar_pl.environments.search_qa import SearchQA
from sdar_pl.environments.textarena import TextArena
from sdar_pl.environments.verifiers import Verifiers
from sdar_pl.environments.webshop import WebShop

Make = Callable[[], Environment]
ALFWORLD_SPLITS = ("valid_unseen", "valid_seen")


@pytest.mark.parametrize(
    ("make", "splits"),
    [
        pytest.param(Guess, ("train", "validation"), id="Environment.__doc__"),
        pytest.param(lambda: Household(size="tiny"), ("train", "validation", "test"), id="Household"),
        pytest.param(lambda: Faulty(Household(size="tiny"), slow=0.2, delay=0), ("train", "validation"), id="Faulty"),
        pytest.param(
            lambda: Household("full", 9, 9, 9, seed=7, think=True, show_admissible=True),
            *[("validation", "train", "test")],
            id="Household-full",
        ),
    ],
)
def test_own_data(make: Make, splits: tuple[str, ...]) -> None:
    report = check(Subject(make, splits))
    assert not report.violations
    assert not report.unchecked


def test_search_qa() -> None:
    report = check(Subject(SearchQA, ("train", "validation", "test")))
    assert not report.violations
    assert set(report.unchecked) == {"admissible"}  # any words can be searched for


@pytest.mark.parametrize("plain", [False, True])
def test_alfworld(plain: bool) -> None:
    root = str(games())

    def make() -> AlfWorld:
        return AlfWorld(root, think=not plain, show_admissible=not plain)

    report = check(Subject(make, ALFWORLD_SPLITS))
    assert not report.violations
    assert not report.unchecked


def test_webshop() -> None:
    """An action that WebShop does not understand leaves the page as it is, so it has no answer of its own."""
    report = check(Subject(WebShop, ("train", "validation", "test"), episodes=4))
    assert not report.violations
    assert set(report.unchecked) == {"admissible"}


@pytest.mark.slow
def test_alfworld_official_engine() -> None:
    root = str(games())
    for package in ("textworld", "alfworld"):
        required(package, "the official engine plays beside ours; pip install 'sdar_pl[alfworld]'")
    report = check(Subject(lambda: AlfWorld(root, engine="textworld"), ALFWORLD_SPLITS, episodes=1))
    assert not report.violations
    assert not report.unchecked


def test_all_classes_are_checked_here() -> None:
    """A new environment of the package joins the tests above."""
    import importlib
    import pkgutil

    import sdar_pl.environments

    for module in pkgutil.walk_packages(sdar_pl.environments.__path__, "sdar_pl.environments."):
        importlib.import_module(module.name)
    classes, stack = set(), [Environment]
    while stack:
        stack += (parent := stack.pop()).__subclasses__()
        if parent.__module__.startswith("sdar_pl.environments") and not parent.__abstractmethods__:
            classes.add(parent)
    others = {ReasoningGym, TextArena, GymText}  # tests/environments/test_other_environments.py
    others |= {Verifiers}  # tests/environments/test_verifiers.py
    assert classes == {Household, AlfWorld, SearchQA, Faulty, WebShop} | others


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: f"{broken.check}: {broken.words}")
def test_a_broken_clause_is_found(broken: Broken) -> None:
    report = check(Subject(broken.make, ("train", "validation")))
    lines = report.violations.get(broken.check, [])
    assert any(broken.words in line for line in lines), report
    assert not any("\n" in line for found in report.violations.values() for line in found)


def test_every_check_has_a_broken_class() -> None:
    assert {broken.check for broken in BROKEN} == set(CHECKS)
    assert all(function.__doc__ for function in CHECKS.values())


def test_a_violation_is_reported_once() -> None:
    """A session that always raises is met by most checks."""
    broken = next(broken for broken in BROKEN if broken.words == "returned str")
    report = check(Subject(broken.make, ("train", "validation")))
    lines = [line for found in report.violations.values() for line in found]
    assert len(lines) == len(set(lines)) <= 3


def test_what_cannot_be_checked_is_named() -> None:
    class Bare(Guess):  # type: ignore[misc, valid-type]
        """Lists no commands and knows no solution."""

        expert_plan = Environment.expert_plan

        def session(self, task: object) -> object:
            session = super().session(task)
            session.last = type(session.last)(text="Guess.")
            return session

    report = check(Subject(Bare))
    assert set(report.unchecked) == {"splits", "expert_plan", "admissible", "after_done"}
    assert not report.violations
