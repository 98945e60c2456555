"""Real ALFWorld games: the official engine's transcripts, the walkthroughs, and what AlfWorld refuses."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from helpers.alfworld import golden

from sdar_pl.environments.alfworld import AlfWorld, parse_action
from sdar_pl.errors import UserError
from sdar_pl.types import Task


def test_transcripts(world: AlfWorld) -> None:
    for play in golden("alfworld_transcripts.json.gz"):
        session = world.session(Task(play["game"].removesuffix("/game.tw-pddl"), "", ""))
        observation = session.reset()
        assert (observation.text, list(observation.admissible)) == (play["first"], play["admissible0"])
        for step in play["steps"]:
            observation = session.step(step["action"])
            digest = hashlib.sha1("\n".join(observation.admissible).encode()).hexdigest()[:16]
            got = (observation.text, observation.success, observation.done, len(observation.admissible), digest)
            assert got == (step["obs"], step["won"], step["done"], step["n"], step["admissible"]), play["game"]
            assert observation.reward == 10.0 * step["score"]


@pytest.mark.parametrize(("split", "number"), [("valid_seen", 140), ("valid_unseen", 134)])
def test_every_walkthrough_wins(world: AlfWorld, split: str, number: int) -> None:
    tasks = world.tasks(split)
    assert [task.id for task in tasks] == sorted({task.id for task in tasks})
    assert len(tasks) == number
    assert {task.kind for task in tasks} == set(world.kinds)
    assert world.skipped == 0
    for task in tasks:
        session = world.session(task)
        first = session.reset()
        assert first.text.endswith(f"Your task is to: {task.text}.")
        assert task.kind == task.id.split("/")[1].split("-")[0]
        *before, last = [session.step(action) for action in world.expert_plan(task)]
        assert last.success, task.id
        assert not any(observation.done for observation in before)


def test_the_kind_of_the_goal_is_the_kind_of_the_folder(world: AlfWorld) -> None:
    for split in ("valid_seen", "valid_unseen"):
        assert all(world.game(task).goal.kind == task.kind for task in world.tasks(split))


def test_root(root: Path, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert AlfWorld(str(root)).root == AlfWorld(str(root / "json_2.1.1")).root
    monkeypatch.setenv("ALFWORLD_DATA", str(copied.parent))
    assert len(AlfWorld().tasks("train")) == 3
    monkeypatch.setenv("ALFWORLD_DATA", str(copied / "nothing"))
    with pytest.raises(UserError, match=r"^data\.environment\.root: no games at .*nothing.*; run alfworld-download"):
        AlfWorld()


def test_unknown_names(copied: Path) -> None:
    with pytest.raises(UserError, match=r"^data\.environment: AlfWorld has no split 'valid'; .* has train$"):
        AlfWorld(str(copied)).tasks("valid")
    (copied / "valid_seen").mkdir()
    with pytest.raises(UserError, match=r"^data\.environment\.root: no good game in .*valid_seen \(0 skipped\)$"):
        AlfWorld(str(copied)).tasks("valid_seen")
    with pytest.raises(UserError, match=r"^data\.environment\.kinds: 'pick'; must be one of pick_and_place_simple"):
        AlfWorld(str(copied), kinds=["pick"])
    with pytest.raises(UserError, match=r"^data\.environment\.engine: 'thor'; must be one of native, textworld$"):
        AlfWorld(str(copied), engine="thor")  # type: ignore[arg-type]


def test_the_official_engine_needs_its_packages(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdar_pl.environments.alfworld.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^data\.environment\.engine: 'textworld' needs .*sdar_pl\[alfworld\]"):
        AlfWorld(str(copied), engine="textworld")


def test_kinds(world: AlfWorld, root: Path) -> None:
    only = AlfWorld(str(root), kinds=["look_at_obj_in_light"]).tasks("valid_seen")
    assert list(only) == [task for task in world.tasks("valid_seen") if task.kind == "look_at_obj_in_light"]


def test_folders_without_a_game_are_not_counted(copied: Path) -> None:
    (copied / "train" / "pick_and_place_simple-Mug-None-Shelf-1" / "trial_1").mkdir(parents=True)
    movable = copied / "train" / "pick_and_place_with_movable_recep-Mug-Plate-Shelf-1" / "trial_1"
    movable.mkdir(parents=True)
    (movable / "game.tw-pddl").write_text("{}")
    world = AlfWorld(str(copied))
    assert (len(world.tasks("train")), world.skipped) == (3, 0)


def test_parse_action_golden() -> None:
    for case in golden("environments.json")["projection"]["alfworld"]:
        assert parse_action(case["text"]) == (case["action"], bool(case["valid"])), case["text"]


@pytest.mark.parametrize("split", ["valid_seen", "valid_unseen"])
def test_the_scripted_expert_plays_the_real_games(split: str, world: AlfWorld) -> None:
    """It knows no more than the goal and what it has seen; the novice errs."""
    won = {"expert": 0, "novice": 0}
    for task in world.tasks(split):
        for name, player in zip(won, world.players(task, random.Random(task.id)), strict=True):
            session = world.session(task)
            observation = session.reset()
            for _ in range(50):
                observation = session.step(player.act(observation))
                if observation.done:
                    break
            won[name] += observation.success
    assert won["expert"] >= len(world.tasks(split)) - 1
    assert 0.4 * len(world.tasks(split)) < won["novice"] < 0.9 * len(world.tasks(split))
