"""The household rules on a small game of our own: every command, its feedback and when it is admissible."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from sdar_pl.environments.household.game import Game, Goal, Receptacle, Thing
from sdar_pl.environments.household.rules import HELP, NOTHING_HAPPENS, HouseholdSession
from sdar_pl.types import Observation

GAME = Game(
    id="test",
    text="put a clean apple in fridge",
    goal=Goal("pick_clean_then_place_in_recep", "Apple", "Fridge", state="clean"),
    receptacles=(
        Receptacle("countertop 1", "CounterTop", location="kitchen"),
        Receptacle("drawer 1", "Drawer", openable=True, location="kitchen"),
        Receptacle("fridge 1", "Fridge", openable=True),
        Receptacle("microwave 1", "Microwave", openable=True, opened=True),
        Receptacle("sidetable 1", "SideTable"),
        Receptacle("sinkbasin 1", "SinkBasin"),
    ),
    things=(
        Thing("apple 2", "Apple", "countertop 1", cleanable=True, heatable=True, coolable=True, sliceable=True),
        Thing("apple 1", "Apple", "drawer 1", cleanable=True, sliceable=True),
        Thing("desklamp 1", "DeskLamp", "sidetable 1", pickupable=False, toggleable=True),
        Thing("knife 1", "Knife", "countertop 1"),
        Thing("plate 1", "Plate", "countertop 1", container=True, contents=("apple 2", "plate 1")),
    ),
    can_contain=frozenset({("Fridge", "Apple"), ("CounterTop", "Apple"), ("CounterTop", "Knife"), ("Drawer", "Knife")}),
)
LAMP = replace(GAME, goal=Goal("look_at_obj_in_light", "Apple", lamp="DeskLamp"), text="look at apple under the lamp")


def test_the_first_observation() -> None:
    first = HouseholdSession(GAME).reset()
    assert first.text == (
        "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly around you, you see "
        "a countertop 1, a drawer 1, a fridge 1, a microwave 1, a sidetable 1, and a sinkbasin 1.\n\n"
        "Your task is to: put a clean apple in fridge."
    )
    assert first.admissible == (
        *(f"go to {receptacle.name}" for receptacle in GAME.receptacles), "help", "inventory", "look"
    )  # fmt: skip
    assert not first.done
    facing = HouseholdSession(replace(GAME, start="kitchen")).reset().text
    assert "You are facing the countertop 1, and drawer 1. Next to it, you see nothing.\n\nYour task" in facing


@pytest.mark.parametrize(
    "script",
    [
        # the room is listed at the start only
        [("look", "You are in the middle of a room. Looking quickly around you, you see nothing.")],
        [("help", HELP), ("inventory", "You are not carrying anything.")],
        [(bad, NOTHING_HAPPENS) for bad in ("", "go to", "GO TO fridge 1", "go to fridge 9", "fly", "open fridge 1")],
        [(" go to fridge 1\n", "You arrive at fridge 1. The fridge 1 is closed."), ("go to fridge 1", NOTHING_HAPPENS)],
        [
            ("go to microwave 1", "You arrive at microwave 1. The microwave 1 is open. In it, you see nothing."),
            ("close microwave 1", "You close the microwave 1."),
            ("examine microwave 1", "The microwave 1 is closed."),
            ("open microwave 1", "You open the microwave 1. The microwave 1 is open. In it, you see nothing."),
        ],
        [
            ("go to drawer 1", "You arrive at drawer 1. The drawer 1 is closed."),
            ("look", "You are facing the countertop 1, and drawer 1. Next to it, you see nothing."),
            ("take apple 1 from drawer 1", NOTHING_HAPPENS),
            ("examine apple 2", NOTHING_HAPPENS),  # only what is held can be examined
            ("take knife 1 from countertop 1", "You pick up the knife 1 from the countertop 1."),
            ("take apple 2 from countertop 1", NOTHING_HAPPENS),
            ("examine knife 1", "There's nothing special about knife 1."),
            ("slice apple 1 with knife 1", "You sliced the apple 1 with the knife 1."),  # though the drawer is closed
            ("slice apple 2 with knife 1", "You sliced the apple 2 with the knife 1."),
            ("move knife 1 to drawer 1", NOTHING_HAPPENS),
            ("open drawer 1", "You open the drawer 1. The drawer 1 is open. In it, you see a apple 1."),
            ("move knife 1 to drawer 1", "You move the knife 1 to the drawer 1."),
            ("examine drawer 1", "The drawer 1 is open. In it, you see a apple 1, and a knife 1."),
            ("look", "You are facing the countertop 1, and drawer 1. Next to it, you see a knife 1."),
            ("take apple 2 from countertop 1", "You pick up the apple 2 from the countertop 1."),
            ("inventory", "You are carrying: a apple 2."),
            ("examine apple 2", "This is a sliced apple 2."),
            ("go to fridge 1", "You arrive at fridge 1. The fridge 1 is closed."),
            ("cool apple 2 with fridge 1", "You cool the apple 2 using the fridge 1."),
            ("examine apple 2", "This is a cool sliced apple 2."),
            ("go to sinkbasin 1", "You arrive at sinkbasin 1. On the sinkbasin 1, you see nothing."),
            ("clean apple 2 with sinkbasin 1", "You clean the apple 2 using the sinkbasin 1."),
            ("examine apple 2", "This is a cool and clean sliced apple 2."),
            ("go to microwave 1", "You arrive at microwave 1. The microwave 1 is open. In it, you see nothing."),
            ("heat apple 2 with microwave 1", "You heat the apple 2 using the microwave 1."),
            ("examine apple 2", "This is a hot and clean sliced apple 2."),
            ("move apple 2 to microwave 1", NOTHING_HAPPENS),  # this microwave can contain no apple
            ("go to countertop 1", "You arrive at countertop 1. On the countertop 1, you see a plate 1."),
            ("move apple 2 to countertop 1", "You move the apple 2 to the countertop 1."),
            ("examine countertop 1", "On the countertop 1, you see a apple 2, and a plate 1."),
            ("take plate 1 from countertop 1", "You pick up the plate 1 from the countertop 1."),
            ("examine plate 1", "This is a normal plate 1. In it, you see a apple 2."),
        ],
        [
            ("go to drawer 1", "You arrive at drawer 1. The drawer 1 is closed."),
            ("examine countertop 1", "On the countertop 1, you see a apple 2, a knife 1, and a plate 1."),
            ("take apple 2 from countertop 1", "You pick up the apple 2 from the countertop 1."),
            ("go to fridge 1", "You arrive at fridge 1. The fridge 1 is closed."),
            ("cool apple 2 with fridge 1", "You cool the apple 2 using the fridge 1."),
            ("examine apple 2", "This is a cold apple 2."),
            ("clean apple 2 with fridge 1", NOTHING_HAPPENS),
            ("go to sidetable 1", "You arrive at sidetable 1. On the sidetable 1, you see a desklamp 1."),
            ("use desklamp 1", "You turn on the desklamp 1."),
            ("use desklamp 1", "You turn on the desklamp 1."),
            ("take desklamp 1 from sidetable 1", NOTHING_HAPPENS),
        ],
    ],
)  # fmt: skip
def test_feedback(script: list[tuple[str, str]]) -> None:
    play = HouseholdSession(GAME)
    observation = play.reset()
    for action, text in script:
        known = action.strip() in observation.admissible
        observation = play.step(action)
        assert (action, observation.text) == (action, text)
        assert known == (text != NOTHING_HAPPENS)
        assert list(observation.admissible) == sorted(set(observation.admissible))


def _win(play: HouseholdSession) -> None:
    play.reset()
    for action in ("go to countertop 1", "take apple 2 from countertop 1", "go to fridge 1", "open fridge 1"):
        play.step(action)
    assert not play.step("move apple 2 to fridge 1").success, "it is not clean"
    for action in ("take apple 2 from fridge 1", "go to sinkbasin 1", "clean apple 2 with sinkbasin 1"):
        assert play.step(action).reward == 0
    play.step("go to fridge 1")
    last = play.step("move apple 2 to fridge 1")
    assert (last.reward, last.done, last.success) == (play.success_reward, True, True)
    after = play.step("look")
    assert (after.text, after.admissible, after.done, after.success) == (last.text, last.admissible, True, True)
    assert after.reward == 0


@pytest.mark.parametrize("reward", [10.0, 1.0])
def test_winning_is_rewarded_once(reward: float) -> None:
    _win(HouseholdSession(GAME, reward))


def test_looking_in_light_needs_the_lamp_on_here_and_the_object_held() -> None:
    play = HouseholdSession(LAMP)
    play.reset()
    assert not play.step("go to sidetable 1").success
    assert not play.step("use desklamp 1").success
    assert not play.step("go to countertop 1").success
    assert not play.step("take apple 2 from countertop 1").success
    assert play.step("go to sidetable 1").success


def test_two_objects_must_be_in_one_receptacle() -> None:
    goal = Goal("pick_two_obj_and_place", "Apple", "Fridge", count=2)
    fridges = (*GAME.receptacles, Receptacle("fridge 2", "Fridge"))
    play = HouseholdSession(replace(GAME, goal=goal, receptacles=fridges))
    play.reset()
    for action in ("go to drawer 1", "open drawer 1", "take apple 1 from drawer 1", "go to fridge 2"):
        play.step(action)
    assert not play.step("move apple 1 to fridge 2").success
    for action in ("go to countertop 1", "take apple 2 from countertop 1", "go to fridge 1", "open fridge 1"):
        play.step(action)
    assert not play.step("move apple 2 to fridge 1").success
    for action in ("take apple 2 from fridge 1", "go to fridge 2"):
        play.step(action)
    assert play.step("move apple 2 to fridge 2").success


def played(game: Game, *actions: str) -> Observation:
    """The last observation; every action is admissible."""
    play = HouseholdSession(game)
    observation = play.reset()
    for action in actions:
        assert action in observation.admissible
        observation = play.step(action)
    return observation


HEAT = ("go to microwave 1", "heat apple 2 with microwave 1")
COOL = ("go to fridge 1", "cool apple 2 with fridge 1")


@pytest.mark.parametrize("state", ["hot", "cool"])
@pytest.mark.parametrize(("treatments", "result"), [(HEAT + COOL, "cool"), (COOL + HEAT, "hot")])
def test_heating_and_cooling_undo_each_other(state: str, treatments: tuple[str, ...], result: str) -> None:
    game = replace(GAME, goal=Goal("pick_and_place_simple", "Apple", "CounterTop", state=state))
    take = ("go to countertop 1", "take apple 2 from countertop 1")
    last = played(game, *take, *treatments, "go to countertop 1", "move apple 2 to countertop 1")
    assert last.success == (state == result)


@pytest.mark.parametrize("sliced", [False, True])
def test_a_goal_can_ask_for_a_sliced_object(sliced: bool) -> None:
    game = replace(GAME, goal=Goal("pick_and_place_simple", "Apple", "Fridge", sliced=True))
    take_knife = ("go to countertop 1", "take knife 1 from countertop 1")
    cut = ("slice apple 2 with knife 1",) if sliced else ()
    place = ("take apple 2 from countertop 1", "go to fridge 1", "open fridge 1", "move apple 2 to fridge 1")
    assert played(game, *take_knife, *cut, "move knife 1 to countertop 1", *place).success == sliced


def test_a_held_lamp_is_on_only_after_use() -> None:
    lamp = replace(GAME.things[2], pickupable=True)
    game = replace(GAME, things=(*GAME.things[:2], lamp, *GAME.things[3:]))
    take = ("take desklamp 1 from sidetable 1", "examine desklamp 1")
    off = played(game, "go to sidetable 1", *take)
    assert off.text == "There's nothing special about desklamp 1."
    assert played(game, "go to sidetable 1", "use desklamp 1", *take).text == "This desklamp 1 is on."
    broken = replace(lamp, toggleable=False, toggled=True)
    game = replace(GAME, things=(*GAME.things[:2], broken, *GAME.things[3:]))
    assert played(game, "go to sidetable 1", *take).text == "There's nothing special about desklamp 1."


@pytest.mark.parametrize(
    ("changes", "success"),
    [
        ({"toggled": True}, True),
        ({"toggled": True, "toggleable": False}, False),  # the lamp's type, not toggleable
        ({"toggled": True, "type": "Candle"}, False),  # toggleable, of another type
    ],
)
def test_the_lamp_of_a_goal_has_its_type_and_is_toggleable(changes: dict[str, Any], success: bool) -> None:
    lamp = replace(GAME.things[2], **changes)
    game = replace(LAMP, things=(*GAME.things[:2], lamp, *GAME.things[3:]))
    take = ("go to countertop 1", "take apple 2 from countertop 1", "go to sidetable 1")
    assert played(game, *take).success == success


def test_an_object_in_two_receptacles_stays_in_the_other() -> None:
    things = (replace(GAME.things[0], more_places=("sidetable 1",)), *GAME.things[1:])
    play = HouseholdSession(replace(GAME, things=things))
    play.reset()
    play.step("go to countertop 1")
    play.step("take apple 2 from countertop 1")
    assert play.step("go to sidetable 1").text.endswith("you see a apple 2, and a desklamp 1.")
    assert "take apple 2 from sidetable 1" not in play.step("look").admissible


def test_a_game_is_shared_between_threads() -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            for _ in range(20):
                _win(HouseholdSession(GAME))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
