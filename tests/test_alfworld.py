"""Real ALFWorld games: the official engine's transcripts, the walkthroughs, the prompts, and bad input.

The games lie beside the project (../shared); without them only what needs none is tested.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sdar_pl.environments.alfworld import AlfWorld, parse_action
from sdar_pl.environments.household_prompts import HEADER
from sdar_pl.environments.pddl import load_game
from sdar_pl.environments.rules import Play
from sdar_pl.errors import UserError
from sdar_pl.types import Observation, Task

SHARED = Path(__file__).resolve().parents[2] / "shared"
ARCHIVE = SHARED / "alfworld" / "json_2.1.1.tar.xz"
GOLDEN = SHARED / "golden"


def golden(name: str) -> Any:
    path = GOLDEN / name
    if not path.exists():
        pytest.skip(f"no reference figures at {path}")
    return json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the two validation splits."""
    if not ARCHIVE.exists():
        pytest.skip(f"no ALFWorld games at {ARCHIVE}")
    folder = tmp_path_factory.mktemp("alfworld")
    with tarfile.open(ARCHIVE, "r|xz") as archive:
        for member in archive:
            if member.isfile() and "/valid_" in member.name:
                data = archive.extractfile(member)
                assert data is not None
                path = folder / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data.read())
    return folder


@pytest.fixture(scope="session")
def world(root: Path) -> AlfWorld:
    return AlfWorld(str(root))


@pytest.fixture
def copied(root: Path, tmp_path: Path) -> Path:
    """A data folder of our own with three good games in the split "train"; the path is json_2.1.1 itself."""
    for source in sorted(root.glob("json_2.1.1/valid_seen/pick_heat*/*/game.tw-pddl"))[:3]:
        path = tmp_path / "json_2.1.1" / "train" / source.relative_to(root / "json_2.1.1" / "valid_seen")
        path.parent.mkdir(parents=True)
        path.write_bytes(source.read_bytes())
    return tmp_path / "json_2.1.1"


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


def test_parse_action_golden() -> None:
    for case in golden("environments.json")["projection"]["alfworld"]:
        assert parse_action(case["text"]) == (case["action"], bool(case["valid"])), case["text"]


def test_parse_without_thinking() -> None:
    assert parse_action(" <action> Look </action>", think=False) == ("look", True)
    assert parse_action("look", think=False) == ("look", False)


def test_root(root: Path, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert AlfWorld(str(root)).root == AlfWorld(str(root / "json_2.1.1")).root
    monkeypatch.setenv("ALFWORLD_DATA", str(copied.parent))
    assert len(AlfWorld().tasks("train")) == 3
    monkeypatch.setenv("ALFWORLD_DATA", str(copied / "nothing"))
    with pytest.raises(UserError, match=r"nothing.*alfworld-download"):
        AlfWorld()


def test_unknown_names(copied: Path) -> None:
    with pytest.raises(UserError, match=r"'valid'.*train"):
        AlfWorld(str(copied)).tasks("valid")
    (copied / "valid_seen").mkdir()
    with pytest.raises(UserError, match="no good game"):
        AlfWorld(str(copied)).tasks("valid_seen")
    with pytest.raises(UserError, match=r"'pick'.*pick_and_place_simple"):
        AlfWorld(str(copied), kinds=["pick"])
    with pytest.raises(UserError, match="engine 'thor'"):
        AlfWorld(str(copied), engine="thor")  # type: ignore[arg-type]


def test_kinds(world: AlfWorld, root: Path) -> None:
    only = AlfWorld(str(root), kinds=["look_at_obj_in_light"]).tasks("valid_seen")
    assert list(only) == [task for task in world.tasks("valid_seen") if task.kind == "look_at_obj_in_light"]


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
        (_problem("(isHot ?o)", "(isHot ?o) (isCool ?o)"), "none of the six"),
        (_problem("(:goal", "(:gaol"), "no :goal"),
        (_problem("(:init", "(:init ("), "missing"),
        (_problem("(:init", ") (:init"), "problem"),
    ],
)
def test_a_bad_game_is_told_in_one_line_and_skipped(copied: Path, spoil: Any, message: str) -> None:
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


def test_folders_without_a_game_are_not_counted(copied: Path) -> None:
    (copied / "train" / "pick_and_place_simple-Mug-None-Shelf-1" / "trial_1").mkdir(parents=True)
    movable = copied / "train" / "pick_and_place_with_movable_recep-Mug-Plate-Shelf-1" / "trial_1"
    movable.mkdir(parents=True)
    (movable / "game.tw-pddl").write_text("{}")
    world = AlfWorld(str(copied))
    assert (len(world.tasks("train")), world.skipped) == (3, 0)


TASK = Task("t", "pick_and_place_simple", "put some mug in shelf")
FIRST = Observation(f"{HEADER}\n\nYou are in a room.\n\nYour task is to: {TASK.text}.", ("go to shelf 1", "help"))
HISTORY = [(f"act {k}", Observation(f"Seen {k}.", (f"command {k}", "help"))) for k in range(1, 5)]


def test_window(world: AlfWorld) -> None:
    text = world.window(TASK, FIRST, HISTORY, steps=2)
    assert TASK.text in text
    assert "Steps taken so far: 4" in text
    assert [f"act {k}" in text for k in range(1, 5)] == [False, False, True, True]
    assert "[Step 3] Observation: Seen 2.\n[Step 3] Action: act 3" in text
    assert "Now step 5. Observation: Seen 4." in text
    assert "command 4" in text
    assert "command 3" not in text
    assert "help" not in text
    assert "<think></think>" in text
    assert "<action></action>" in text
    start = world.window(TASK, FIRST, [], steps=2)
    assert "go to shelf 1" in start
    assert "Steps taken" not in start
    assert HEADER not in start
    assert "act 4" not in world.window(TASK, FIRST, HISTORY, steps=0)


def test_conversation(root: Path) -> None:
    plain = AlfWorld(str(root), think=False, show_admissible=False)
    opening = plain.opening(TASK, FIRST)
    instruction, rest = opening.split("\n\n", 1)
    assert len(instruction) < 50
    assert "<action>" in instruction
    assert rest == f"You are in a room.\n\nYour task is to: {TASK.text}."
    assert plain.reply(HISTORY[0][1]) == "Seen 1."
    assert plain.parse("<action>look</action>") == ("look", True)
    full = AlfWorld(str(root))
    assert "<think>" in full.opening(TASK, FIRST)
    assert "go to shelf 1" in full.opening(TASK, FIRST)
    assert full.reply(HISTORY[0][1]) == "Seen 1.\n\nAdmissible commands:\ncommand 1"
    assert full.parse("<action>look</action>") == ("look", False)


def test_textworld_engine_agrees(root: Path, world: AlfWorld) -> None:
    if not (find_spec("textworld") and find_spec("alfworld")):
        with pytest.raises(UserError, match="alfworld"):
            AlfWorld(str(root), engine="textworld")
        pytest.skip("the packages alfworld and textworld are not installed")
    from sdar_pl.environments.textworld_worker import TextWorldSession, WorkerError

    official = AlfWorld(str(root), engine="textworld")
    task = official.tasks("valid_unseen")[0]
    session, twin = official.session(task), world.session(task)
    assert isinstance(session, TextWorldSession)
    assert isinstance(twin, Play)
    assert session.reset() == twin.reset()
    for action in ("look", "nonsense", *world.expert_plan(task), "look"):
        assert session.step(action) == twin.step(action)
    session.close()
    session = official.session(task)
    session.reset()
    assert session._worker is not None
    session._worker.kill()
    with pytest.raises(WorkerError):
        session.step("look")
    session.close()
    session = official.session(task)
    assert session.reset().admissible
    session.close()
