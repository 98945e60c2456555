"""Generated games: the same for one seed, real in their facts, solvable, and disjoint between the splits."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from sdar_pl.environments.household import Household, bucket, catalog
from sdar_pl.environments.household.expert import Aim, Expert, Mistakes, Novice
from sdar_pl.environments.household.game import KINDS, Game
from sdar_pl.environments.household.generator import generate
from sdar_pl.environments.household.rules import HouseholdSession
from sdar_pl.errors import UserError

LIMITS = {"tiny": 20, "small": 35, "full": 60}


def play(game: Game, player: Expert, limit: int) -> tuple[bool, list[str]]:
    """Whether the player wins within the limit, and its commands; each must be understood."""
    session = HouseholdSession(game)
    observation, actions = session.reset(), []
    for _ in range(limit):
        action = player.act(observation)
        assert action in observation.admissible, (game.id, game.text, [*actions, action])
        actions.append(action)
        observation = session.step(action)
        if observation.done:
            break
    return observation.success, actions


def contents(game: Game) -> tuple[object, ...]:
    return game.goal, game.receptacles, game.things


@pytest.mark.parametrize("size", LIMITS)
def test_expert_solves_every_game(size: str) -> None:
    for seed in range(300 if size != "full" else 60):
        game = generate(seed, kind=KINDS[seed % 6], size=size)  # type: ignore[arg-type]
        won, actions = play(game, Expert(game.text, random.Random(seed)), LIMITS[size])
        assert won, (game.id, game.text, actions)


@pytest.mark.parametrize(
    ("size", "receptacles", "things"),
    [("tiny", (5, 7), (4, 6)), ("small", (8, 11), (8, 12)), ("full", (20, 30), (25, 40))],
)
def test_sizes(size: str, receptacles: tuple[int, int], things: tuple[int, int]) -> None:
    for seed in range(60):
        game = generate(seed, size=size)  # type: ignore[arg-type]
        assert receptacles[0] <= len(game.receptacles) <= receptacles[1]
        assert things[0] - 1 <= len(game.things) <= things[1]


def test_games_are_consistent() -> None:
    for seed in range(300):
        game = generate(seed, size=("tiny", "small", "full")[seed % 3])  # type: ignore[arg-type]
        names = [r.name for r in game.receptacles]
        assert len(set(names)) == len(names)
        assert len({t.name for t in game.things}) == len(game.things)
        assert names == sorted(names, key=lambda name: (name.split()[0], -int(name.split()[1])))
        assert all(thing.place in names for thing in game.things)
        goal = game.goal
        assert sum(thing.type == goal.object for thing in game.things) >= goal.count
        if goal.lamp:
            assert any(thing.type == goal.lamp and thing.toggleable for thing in game.things)
        else:
            assert (goal.receptacle, goal.object) in game.can_contain
        if not goal.state:  # nothing is in its place yet
            targets = {r.name for r in game.receptacles if r.type == goal.receptacle}
            assert not any(thing.type == goal.object and thing.place in targets for thing in game.things)


def test_generate_is_a_pure_function() -> None:
    game = generate(7, kind=KINDS[2], size="small")
    generate(8)
    assert generate(7, kind=KINDS[2], size="small") == game
    assert game != generate(8, kind=KINDS[2], size="small")
    # pinned: a changed generator makes other tasks behind the same ids, and old results incomparable
    assert generate(1, size="tiny").text == "examine the mug with the desklamp"
    assert Counter(generate(seed, size="tiny").goal.kind for seed in range(300)).keys() == set(KINDS)


def test_generate_refuses_unknown_names() -> None:
    with pytest.raises(UserError, match="kind: 'juggle'; must be one of pick_and_place_simple"):
        generate(0, kind="juggle")
    with pytest.raises(UserError, match="size: 'huge'; must be one of tiny, small, full"):
        generate(0, size="huge")  # type: ignore[arg-type]


def test_catalog_names_agree() -> None:
    receptacles = {rtype for room in catalog.ROOMS.values() for rtype in room.receptacles}
    for room in catalog.ROOMS.values():
        for otype in room.objects:
            assert set(room.places(otype)) <= room.receptacles.keys()
    assert receptacles - catalog.CAN_CONTAIN.keys() == {"Toaster"}


@pytest.mark.parametrize(
    ("text", "aim"),
    [
        ("put a soapbar in toilet.", Aim("soapbar", "toilet")),
        ("put some pencil on desk", Aim("pencil", "desk")),
        ("look at cd under the desklamp", Aim("cd", lamp="desklamp")),
        ("examine the cd with the desklamp", Aim("cd", lamp="desklamp")),
        ("put a clean mug in shelf", Aim("mug", "shelf", state="clean")),
        ("heat some egg and put it in fridge", Aim("egg", "fridge", state="hot")),
        ("cool some pan and put it in stoveburner", Aim("pan", "stoveburner", state="cool")),
        ("put two vase in desk", Aim("vase", "desk", copies=2)),
        ("find two vase and put them in desk", Aim("vase", "desk", copies=2)),
    ],
)
def test_aim_reads_every_wording(text: str, aim: Aim) -> None:
    assert Aim.parse(text) == aim


def test_aim_refuses_other_words() -> None:
    with pytest.raises(UserError, match=r"make dinner.*templates"):
        Aim.parse("make dinner")


def test_novice_fails_often_and_wins_sometimes() -> None:
    """Each kind is sometimes won, so that RL finds the way; without mistakes it plays as the expert does."""
    wins = Counter[str]()
    for seed in range(600):
        game = generate(seed, kind=KINDS[seed % 6], size="tiny")
        won, _ = play(game, Novice(game.text, random.Random(seed)), 15)
        wins[game.goal.kind] += won
    assert 0.2 < wins.total() / 600 < 0.4
    assert all(wins[kind] >= 5 for kind in KINDS)

    none = Mistakes(*[0.0] * 9)
    for seed in range(60):
        game = generate(seed, kind=KINDS[seed % 6], size="tiny")
        assert play(game, Novice(game.text, random.Random(seed), none), 20)[0]


def test_tasks_are_lazy_balanced_and_stable() -> None:
    household = Household(size="tiny", train_tasks=10**7)
    train = household.tasks("train")
    assert len(train) == 10**7
    assert train[17].id == "household/train/17"
    assert train[17] == household.tasks("train")[17]
    assert train[-1].id == "household/train/9999999"
    assert [task.kind for task in train[:12]] == list(KINDS) * 2
    with pytest.raises(IndexError):
        train[10**7]
    assert [len(household.tasks(split)) for split in ("validation", "test")] == [64, 128]
    assert Household(size="tiny", seed=1).tasks("train")[0].data != train[0].data


def test_splits_are_disjoint_in_contents() -> None:
    household = Household(size="tiny", validation_tasks=120, test_tasks=120)
    games = {
        split: {contents(household.game(task)) for task in household.tasks(split)[:600]}
        for split in ("train", "validation", "test")
    }
    assert not games["train"] & games["validation"]
    assert not games["train"] & games["test"]
    assert not games["validation"] & games["test"]
    # and never can be: each game belongs to one split
    assert {bucket(household.game(task)) for task in household.tasks("validation")} == {8}
    assert {bucket(household.game(task)) for task in household.tasks("test")} == {9}


def test_kinds_are_chosen() -> None:
    household = Household(size="tiny", kinds=[KINDS[3], KINDS[1]])
    assert household.kinds == (KINDS[3], KINDS[1])
    assert [task.kind for task in household.tasks("test")[:4]] == [KINDS[3], KINDS[1]] * 2


def test_training_has_kinds_of_its_own() -> None:
    household = Household(size="tiny", kinds=[KINDS[4], KINDS[5]], train_kinds=KINDS[:4])
    assert household.kinds == KINDS
    for split, kinds in {"train": KINDS[:4], "validation": KINDS[4:], "test": KINDS[4:]}.items():
        assert {task.kind for task in household.tasks(split)[:12]} == set(kinds)


def test_expert_plan_solves_its_task() -> None:
    household = Household(success_reward=3.0)
    task = household.tasks("validation")[2]
    session = household.session(task)
    first = session.reset()
    assert f"Your task is to: {task.text}." in first.text
    for action in household.expert_plan(task):
        observation = session.step(action)
    assert observation.success
    assert observation.reward == 3.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kinds": ["juggle"]}, "data.environment.kinds: 'juggle'; must be one of pick_and"),
        ({"kinds": []}, "data.environment.kinds: is empty; must name some of pick_and"),
        ({"train_kinds": ["juggle"]}, "data.environment.train_kinds: 'juggle'; must be one of pick_and"),
        ({"size": "huge"}, "data.environment.size: 'huge'; must be one of tiny, small, full"),
        *[
            ({f"{split}_tasks": 0}, f"data.environment.{split}_tasks: 0; must be ≥ 1")
            for split in ("train", "validation", "test")
        ],
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        Household(**arguments)  # type: ignore[arg-type]


def test_unknown_split_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"^data\.environment: Household has no split 'dev'; use train, validation, test$"
    ):
        Household().tasks("dev")
