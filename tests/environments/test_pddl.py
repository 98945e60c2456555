"""Game files: bad ones are refused in one line and skipped, unusual ones are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sdar_pl.environments.alfworld import AlfWorld
from sdar_pl.environments.alfworld.pddl import load_game
from sdar_pl.errors import UserError


def _problem(old: str, new: str) -> Any:
    def spoil(text: str) -> str:
        game = json.loads(text)
        assert old in game["pddl_problem"]
        game["pddl_problem"] = game["pddl_problem"].replace(old, new, 1)
        return json.dumps(game)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text[: len(text) // 2], "not a whole JSON file"),
        (lambda text: "", "not a whole JSON file"),
        (lambda text: "[]", "pddl_problem"),
        (lambda text: text.replace("pddl_problem", "problem"), "pddl_problem"),
        (lambda text: text.replace("Your task is to", "Please"), "Your task is to"),
        (_problem("(:init", "(:init (flies agent1)"), "unknown predicate 'flies' in :init"),
        (_problem("(:init", "(:init (holds agent1 a)"), "unknown predicate 'holds' in :init"),
        (_problem("(isHot ?o)", "(isPurple ?o)"), "unknown predicate 'ispurple' in :goal"),
        (_problem("(isHot ?o)", "(isHot ?o) (isCool ?o)"), "none of ALFRED's six"),
        (_problem("(:goal", "(:gaol"), "no :goal"),
        (_problem("(:init", "(:init ("), "missing"),
        (_problem("(:init", ") (:init"), "problem"),
    ],
)
def test_a_bad_game_is_refused_in_one_line_and_skipped(copied: Path, spoil: Any, message: str) -> None:
    world = AlfWorld(str(copied))
    bad = sorted(copied.glob("train/*/*/game.tw-pddl"))[1]
    bad.write_text(spoil(bad.read_text()))
    with pytest.raises(UserError) as error:
        load_game(bad)
    assert str(bad) in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.warns(UserWarning, match="skipped a bad game"):
        tasks = world.tasks("train")
    assert (len(tasks), world.skipped) == (2, 1)
    assert len(world.tasks("train")) == 2
    assert world.skipped == 1


@pytest.mark.parametrize("fact", ["(openable a b)", "loose", "((openable) a)", "()"])
def test_a_malformed_fact(copied: Path, fact: str) -> None:
    bad = sorted(copied.glob("train/*/*/game.tw-pddl"))[1]
    bad.write_text(_problem("(:init", f"(:init {fact}")(bad.read_text()))
    with pytest.raises(UserError, match=r"game\.tw-pddl: "):
        load_game(bad)


def test_other_spelling_is_read_too(copied: Path) -> None:
    path = sorted(copied.glob("train/*/*/game.tw-pddl"))[1]
    good = load_game(path)
    path.write_text(_problem("(:init", "(:init ; a remark (\n (= (total-cost) 0) (OPENABLE nothing)")(path.read_text()))
    assert load_game(path) == good
    assert [task.text for task in AlfWorld(str(copied)).tasks("train")].count(good.text) >= 1
