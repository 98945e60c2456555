"""Bad ALFWorld games: skipped wherever they are found bad, named, counted; a run with good ones goes on."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from helpers.plays import Dice, run

from sdar_pl.environments.alfworld import AlfWorld, BadGameError
from sdar_pl.environments.alfworld.pddl import load_game
from sdar_pl.environments.alfworld.textworld_worker import TextWorldSession, WorkerError
from sdar_pl.environments.household.rules import HouseholdSession
from sdar_pl.errors import UserError
from sdar_pl.rollout import PlayRules
from sdar_pl.sampling.slots import EpisodeSlot
from sdar_pl.skills.hindsight import ReferenceSolution
from sdar_pl.types import Episode

RULES = PlayRules(max_turns=2, retries=1, workers=2, max_failed=0.5)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("train/*/*/game.tw-pddl"))


def spoil(path: Path, **keys: Any) -> None:
    """Other values of some keys of the game file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def without_mugs(path: Path) -> None:
    """No object of the goal's type is left: a fault that the quick reader of listings does not see."""
    game, goal = json.loads(path.read_text()), load_game(path).goal
    head, split, rest = game["pddl_problem"].partition("(:goal")
    spoil(path, pddl_problem=head.replace(f" {goal.object}Type)", " BrickType)") + split + rest)


def play(world: AlfWorld) -> list[Episode]:
    slots = [EpisodeSlot(task, n, 0, n, (5, n)) for n, task in enumerate(world.tasks("train"))]
    return run(world, RULES, Dice(), slots=slots, prompter={"max_prompt_tokens": 10_000})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: spoil(path, solvable=False), r"no solution \('solvable' is false\)"),
        (lambda path: spoil(path, walkthrough="go to shelf 1"), "'walkthrough' is no list of commands"),
        (lambda path: spoil(path, walkthrough=[1]), "'walkthrough' is no list of commands"),
        (lambda path: spoil(path, grammar=None), "the grammar has no line 'Your task is to: …'"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000] + b"\xff\xfe"), "not a whole JSON file"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(50)), "not a whole JSON file"),
        (lambda path: path.write_text("[" * 100_000), "nested too deep"),
        (lambda path: (path.unlink(), path.mkdir()), r"cannot be read \(Is a directory\)"),
    ],
)
def test_found_bad_when_the_split_is_listed(copied: Path, damage: Any, message: str) -> None:
    damage(path := files(copied)[1])
    world = AlfWorld(str(copied))
    with pytest.warns(UserWarning, match=f"skipped a bad game: {path}: {message}") as caught:
        assert len(world.tasks("train")) == 2
    assert len(caught) == world.skipped == 1


@pytest.mark.parametrize("damage", [without_mugs, Path.unlink, lambda path: path.write_text('{"pddl_pro')])
def test_found_bad_when_it_is_played(copied: Path, damage: Any) -> None:
    world = AlfWorld(str(copied))
    assert len(world.tasks("train")) == 3
    path = files(copied)[1]
    damage(path)
    with pytest.warns(UserWarning, match=f"is left out: BadGameError: {path}: ") as caught:
        episodes = play(world)
    assert [bool(episode.failed) for episode in episodes] == [False, True, False]
    assert len(caught) == world.skipped == 1
    with pytest.raises(BadGameError, match=str(path)):
        world.session(world.tasks("train")[1])
    assert world.skipped == 1, "counted once"
    context = ReferenceSolution()
    context.bind(world, 1)
    assert [bool(context.provide(task)) for task in world.tasks("train")] == [True, False, True]


def test_without_a_solution(copied: Path) -> None:
    without_mugs(path := files(copied)[1])
    with pytest.raises(UserError, match=rf"^{path}: no solution \(the goal needs 1 of type \w+, the game has 0\)$"):
        load_game(path)


def test_all_bad(copied: Path, recwarn: pytest.WarningsRecorder) -> None:
    for path in files(copied):
        spoil(path, solvable=False)
    world = AlfWorld(str(copied))
    with pytest.raises(UserError, match=rf"no good game in .*train \(3 skipped; the first: {files(copied)[0]}: no sol"):
        world.tasks("train")
    assert not recwarn.list, "one line"


@pytest.mark.filterwarnings("ignore:task")
def test_all_found_bad_when_they_are_played(copied: Path) -> None:
    world = AlfWorld(str(copied))
    world.tasks("train")
    for path in files(copied):
        without_mugs(path)
    with pytest.raises(UserError, match=r"3 of 3 episodes failed, .*; the last error: BadGameError: .*tw-pddl: no sol"):
        play(world)
    assert world.skipped == 3


def test_a_folder_whose_name_is_no_unicode(copied: Path) -> None:
    folder = files(copied)[1].parent
    folder.rename(Path(os.fsdecode(os.fsencode(folder) + b"\xff")))
    world = AlfWorld(str(copied))
    with pytest.warns(UserWarning, match="skipped a bad game: data.environment: Task.id has a lone surrogate"):
        assert len(world.tasks("train")) == 2


def test_whatever_is_damaged_is_refused_or_plays(copied: Path) -> None:
    """Random cuts, doubled and exchanged pieces of a game file, of its PDDL and of its JSON."""
    path, rng = files(copied)[0], random.Random(0)
    game, refusals = json.loads(path.read_text()), list[str]()
    for number in range(150):
        problem = game["pddl_problem"] if number % 3 else path.read_text()
        begin = rng.randrange(len(problem))
        end = begin + rng.choice([1, 5, 40, 400])
        piece = rng.choice(["", problem[begin:end] * 2, "(", ")", "()", '"', " loose ", "\x00", "\ud800", problem[:50]])
        problem = problem[:begin] + piece + problem[end:]
        damaged = path.with_name("damaged")
        text = json.dumps({**game, "pddl_problem": problem}) if number % 3 else problem
        damaged.write_text(text, errors="surrogatepass")
        try:
            session = HouseholdSession(load_game(damaged))
        except UserError as error:
            refusals.append(str(error))
            continue
        session.reset()
        for action in ("look", "inventory", *game["walkthrough"]):
            session.step(action)
    assert len(refusals) > 20
    assert all(line.startswith(f"{damaged}: ") and "\n" not in line for line in refusals)


def test_the_official_engine_names_the_file() -> None:
    class NoWorker(TextWorldSession):
        def _observe(self, request: dict[str, str]) -> Any:
            raise WorkerError("JSONDecodeError: char 0")

    class Pool:
        def take(self) -> None: ...

    with pytest.raises(WorkerError, match=r"^/games/game\.tw-pddl: JSONDecodeError: char 0$"):
        NoWorker(Path("/games/game.tw-pddl"), pool=Pool()).reset()  # type: ignore[arg-type]
