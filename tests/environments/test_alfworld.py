"""Real ALFWorld games: the official engine's transcripts, the walkthroughs, the prompts, and bad input.

The games lie beside the project (../shared); without them only what needs none is tested.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import random
import signal
import sys
import tarfile
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from helpers import CONFIGS, SHARED

from sdar_pl.environments.alfworld import AlfWorld, parse_action
from sdar_pl.environments.alfworld.pddl import load_game
from sdar_pl.environments.household.prompts import HEADER
from sdar_pl.environments.household.rules import HouseholdSession
from sdar_pl.errors import UserError
from sdar_pl.types import Observation, Task

ARCHIVE = SHARED / "alfworld" / "json_2.1.1.tar.xz"
GOLDEN = SHARED / "golden"
TINY = CONFIGS / "alfworld" / "tiny.yaml"
OFFICIAL = bool(find_spec("textworld") and find_spec("alfworld"))
needs_official = pytest.mark.skipif(not OFFICIAL, reason="the packages alfworld and textworld are not installed")


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
    if not OFFICIAL:
        with pytest.raises(UserError, match="alfworld"):
            AlfWorld(str(root), engine="textworld")
        pytest.skip("the packages alfworld and textworld are not installed")
    from sdar_pl.environments.alfworld.textworld_worker import TextWorldSession, WorkerError

    official = AlfWorld(str(root), engine="textworld")
    task = official.tasks("valid_unseen")[0]
    session, twin = official.session(task), world.session(task)
    assert isinstance(session, TextWorldSession)
    assert isinstance(twin, HouseholdSession)
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


# ---------------------------------------------------------------------- slow: the official engine, and whole runs


@pytest.mark.slow
@needs_official
@pytest.mark.parametrize("split", ["valid_seen", "valid_unseen"])
def test_random_games_side_by_side(root: Path, world: AlfWorld, split: str) -> None:
    """A game of each kind and split that the recorded transcripts need not hold, played at random, with slips."""
    official = AlfWorld(str(root), engine="textworld")
    rng = random.Random(f"side by side in {split}")
    for kind in world.kinds:
        for task in rng.sample([task for task in official.tasks(split) if task.kind == kind], 1):
            session, twin = official.session(task), world.session(task)
            observation = session.reset()
            assert twin.reset() == observation, task.id
            slips = ["", "take the lot", "go to nowhere 1", "open", "examine", "GO TO shelf 1", "help", "inventory"]
            for _ in range(30):
                action = rng.choice(slips if rng.random() < 0.1 else observation.admissible)
                observation = session.step(action)
                assert twin.step(action) == observation, (task.id, action)
                if observation.done:
                    break
            session.close()


def run(root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, command: str, *options: str) -> Path:
    """``python -m sdar_pl <command> --config configs/alfworld/tiny.yaml …`` → the run folder."""
    from sdar_pl.cli import main
    from sdar_pl.runtime.run_folder import RUN_FOLDER

    monkeypatch.delenv(RUN_FOLDER, raising=False)
    monkeypatch.setattr(sys, "argv", ["sdar_pl"])
    small = ("--trainer.default_root_dir", str(folder), "--data.environment.init_args.root", str(root))
    splits = ("--data.train_split", "valid_unseen")  # the fixture unpacks no others
    assert main([command, "--config", str(TINY), *small, *splits, *options]) == 0
    return Path(os.environ[RUN_FOLDER])


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_tiny_config_trains_and_is_evaluated(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sdar_pl.policy import packaged_models

    if "tiny-household" not in packaged_models():
        pytest.skip("the tiny policy is not in sdar_pl/assets: make it with scripts/train_tiny_policy.py")
    panel = ("--data.panel_tasks", "12", "--data.play.max_turns", "12")
    iterations = ("--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "2")
    folder = run(root, tmp_path, monkeypatch, "fit", *panel, *iterations, "--data.tasks_per_iteration", "4")
    rows = metrics(folder)
    assert [int(row["step"]) for row in rows] == [0, 1, 2]
    assert [bool(row["val/success"]) for row in rows] == [True, False, True]
    for row in rows[1:]:
        assert 0 < float(row["gate/mean"]) < 1
        assert float(row["rollout/failed"]) == 0
    assert len({row["loss/total"] for row in rows[1:]}) == 2
    checkpoint = ("--ckpt_path", str(folder / "checkpoints" / "last.ckpt"))
    for context in ("false", "true"):
        shown = ("--data.evaluate_with_context", context)
        assert run(root, tmp_path, monkeypatch, "test", *panel, *checkpoint, *shown) == folder
        report = json.loads((folder / "test.json").read_text())
        episodes = [json.loads(line) for line in (folder / "episodes.test.jsonl").open()]
        assert len({episode["task"] for episode in episodes}) == len(episodes) == report["n"] == 12
        assert all(episode["task"].startswith("valid_unseen/") for episode in episodes)
        assert report["context"] is (context == "true")
        assert report["success"] == sum(episode["success"] for episode in episodes) / 12
        assert sum(kind["n"] for kind in report["kinds"].values()) == 12
        low, high = report["interval"]
        assert 0 <= low <= report["success"] <= high <= 1


@pytest.mark.slow
@needs_official
def test_a_killed_worker_does_not_stop_a_run(
    root: Path, tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 of a worker in mid-episode: that episode is played again, on another worker."""
    from sdar_pl.environments.alfworld.textworld_worker import TextWorldSession

    killed: list[tuple[int, str]] = []
    resets: Counter[str] = Counter()
    step, reset = TextWorldSession.step, TextWorldSession.reset

    def deadly(self: TextWorldSession, action: str) -> Observation:
        self.steps_taken = getattr(self, "steps_taken", 0) + 1  # type: ignore[attr-defined]
        if self.steps_taken == 2 and not killed:  # type: ignore[attr-defined]
            assert self._worker is not None
            process = self._worker._process
            killed.append((process.pid, self.path.parent.name))
            os.kill(process.pid, signal.SIGKILL)
        return step(self, action)

    def counted(self: TextWorldSession) -> Observation:
        resets[self.path.parent.name] += 1
        return reset(self)

    monkeypatch.setattr(TextWorldSession, "step", deadly)
    monkeypatch.setattr(TextWorldSession, "reset", counted)
    options = {
        "model.policy.model": str(models["qwen2"]),
        "data.environment.init_args.engine": "textworld",
        "data.prompter.init_args.max_prompt_tokens": "8192",
        "data.prompter.init_args.max_teacher_tokens": "16384",
        "data.play.max_turns": "3",
        "data.play.workers": "1",  # one after the other: the kill comes first
        "data.sampling.max_new_tokens": "4",
        "data.evaluation.max_new_tokens": "4",
        "data.tasks_per_iteration": "2",
        "data.group_size": "2",
        "data.panel_tasks": "1",
        "trainer.max_epochs": "1",
        "trainer.num_sanity_val_steps": "0",
    }
    folder = run(root, tmp_path, monkeypatch, "fit", *(word for key in options for word in (f"--{key}", options[key])))
    ((pid, game),) = killed
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert resets[game] == 3, "two episodes of the group, one of them twice"
    (row,) = metrics(folder)
    assert float(row["rollout/failed"]) == 0
    episodes = [json.loads(line) for line in (folder / "episodes.jsonl").open()]
    assert [len(episode["turns"]) for episode in episodes if episode["split"] == "train"] == [3] * 4
