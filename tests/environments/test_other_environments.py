"""ReasoningGym, TextArena and GymText with the real packages."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
from helpers import CONFIGS
from helpers.evidence import required
from helpers.runs import TINY, metrics, run_here

from sdar_pl.cli import main
from sdar_pl.environments.contract import Subject, check
from sdar_pl.environments.frozen_lake_text import FrozenLakeText
from sdar_pl.environments.gym_text import GymText, World
from sdar_pl.environments.reasoning_gym import ReasoningGym
from sdar_pl.environments.textarena import TextArena
from sdar_pl.errors import UserError

pytestmark = pytest.mark.slow
SPLITS = ("train", "validation", "test")
PACKAGES = {"ReasoningGym": "reasoning_gym", "TextArena": "textarena", "GymText": "gymnasium"}


def needs(name: str) -> None:
    extra = PACKAGES[name].replace("_", "-")
    required(PACKAGES[name], f"{name} is tested with the real package; pip install 'sdar_pl[{extra}]'")


def lake(**options: Any) -> GymText:
    return GymText({"lake": World(f"{FrozenLakeText.__module__}.FrozenLakeText", {"size": 4})}, **options)


# ---------------------------------------------------------------------- the contract


def test_reasoning_gym_keeps_the_contract() -> None:
    needs("ReasoningGym")
    report = check(Subject(lambda: ReasoningGym(train_tasks=40, think=True), SPLITS, episodes=4))
    assert not report.violations
    assert set(report.unchecked) == {"admissible"}


def test_textarena_keeps_the_contract() -> None:
    needs("TextArena")
    games = ("GuessTheNumber-v0", "Mastermind-v0", "TowerOfHanoi-v0", "Minesweeper-v0-small", "Blackjack-v0")
    report = check(Subject(lambda: TextArena(games, train_tasks=40), SPLITS, episodes=5))
    assert not report.violations
    assert set(report.unchecked) == {"admissible", "expert_plan"}


def test_gym_text_keeps_the_contract() -> None:
    needs("GymText")
    report = check(Subject(lambda: lake(train_tasks=40), SPLITS, episodes=3))
    assert not report.violations
    assert set(report.unchecked) == {"expert_plan"}


def test_check_env_takes_them(capsys: pytest.CaptureFixture[str]) -> None:
    needs("ReasoningGym")
    arguments = ["--init", "datasets=[lcm]", "options={lcm: {max_value: 30}}", "--episodes", "1"]
    assert main(["check-env", "sdar_pl.environments.reasoning_gym.ReasoningGym", *arguments]) == 0
    assert "no violations" in capsys.readouterr().out


# ---------------------------------------------------------------------- training


@pytest.mark.parametrize("name", PACKAGES)
def test_the_tiny_policy_trains(name: str, tmp_path: Path) -> None:
    needs(name)
    file = {"ReasoningGym": "reasoning_gym", "TextArena": "textarena", "GymText": "gym_text"}[name]
    settings = dict(zip(TINY[::2], TINY[1::2], strict=True))
    settings |= {"--trainer.max_epochs": "1", "--data.environment.init_args.validation_tasks": "4"}
    settings |= {"--trainer.default_root_dir": str(tmp_path)}
    config = str(CONFIGS / "other_environments" / f"{file}.yaml")
    row = metrics(run_here("fit", "--config", config, *(word for pair in settings.items() for word in pair)))[-1]
    assert math.isfinite(row["loss/total"])
    assert any(column.startswith("val/success/") for column in row)
    if name != "TextArena":  # there the teacher reads a success, which the tiny policy does not have
        assert math.isfinite(row["gap/mean"])


# ---------------------------------------------------------------------- reasoning-gym


def test_the_answer_is_the_reference_solution() -> None:
    needs("ReasoningGym")
    world = ReasoningGym(["basic_arithmetic", "lcm"], {"basic_arithmetic": {"max_digits": 1}})
    for task in world.tasks("train")[:6]:
        (answer,) = world.expert_plan(task)
        session = world.session(task)
        assert session.reset().text == task.text
        seen = session.step(answer)
        assert (seen.reward, seen.done, seen.success, seen.score) == (1.0, True, True, 1.0)
        wrong = world.session(task).step("no idea")
        assert (wrong.done, wrong.success) == (True, False)
        assert wrong.reward < 1
    assert world.parse("<think>4?</think> <answer>3</answer> no: <answer> 4 </answer>") == ("4", True)
    assert world.parse("4") == ("4", False)
    assert ReasoningGym(["lcm"], think=True).parse("<answer>4</answer>") == ("4", False)


def test_no_question_is_in_two_splits() -> None:
    needs("ReasoningGym")
    small = {"basic_arithmetic": {"max_terms": 2, "max_digits": 1}}  # a few hundred questions
    world = ReasoningGym(["basic_arithmetic"], small, train_tasks=200, validation_tasks=40, test_tasks=40)
    questions = [{task.text for task in world.tasks(split)} for split in SPLITS]
    assert not questions[0] & questions[1]
    assert not questions[0] & questions[2]
    assert not questions[1] & questions[2]
    again = ReasoningGym(["basic_arithmetic"], small, train_tasks=200, validation_tasks=40, test_tasks=40)
    assert [t.text for t in again.tasks("test")] == [t.text for t in world.tasks("test")]
    other = ReasoningGym(["basic_arithmetic"], small, test_tasks=40, seed=1)
    assert [t.text for t in other.tasks("test")] != [t.text for t in world.tasks("test")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"datasets": ["sums"]}, "data.environment.datasets: 'sums'; reasoning-gym has no such dataset"),
        ({"datasets": []}, r"data.environment.datasets: \[\]"),
        ({"datasets": ["countdown"]}, "countdown executes the policy's answers as Python"),
        ({"datasets": ["lcm"], "options": {"lcm": {"max_digits": 2}}}, "data.environment.options: lcm: TypeError"),
        ({"threshold": 0}, "data.environment.threshold: 0; must be > 0"),
        ({"train_tasks": 0}, "data.environment.train_tasks: 0; must be ≥ 1"),
    ],
)
def test_bad_questions(arguments: dict[str, Any], message: str) -> None:
    needs("ReasoningGym")
    with pytest.raises(UserError, match=message):
        ReasoningGym(**arguments)


def test_the_list_of_datasets_that_execute_answers_is_whole() -> None:
    """By the source of every scorer: one that calls eval, exec or parse_expr on an answer must be in EVALUATE."""
    needs("ReasoningGym")
    import inspect
    import re

    from reasoning_gym.factory import DATASETS

    from sdar_pl.environments.reasoning_gym import EVALUATE

    def executes(kind: type) -> bool:
        scorer = inspect.getsource(kind.score_answer)  # type: ignore[attr-defined]
        return bool(re.search(r"\b(?:eval|exec)\(answer|parse_expr\(answer", scorer))

    assert {name for name, (kind, _) in DATASETS.items() if executes(kind)} == EVALUATE


# ---------------------------------------------------------------------- textarena


def test_sessions_draw_for_themselves() -> None:
    needs("TextArena")
    world = TextArena(["Blackjack-v0"])
    task, other = world.tasks("train")[:2]

    def played(beside: bool) -> list[str]:
        session, second = world.session(task), world.session(other)
        texts = [session.reset().text]
        for number in range(6):
            if beside:
                second.reset() if number == 0 else second.step("[Hit]")
                random.random()
            texts.append(session.step("[Hit]").text)
        return texts

    random.seed(1)
    before = random.getstate()
    alone = played(beside=False)
    assert random.getstate() == before, "the program's own draws are left alone"
    assert played(beside=True) == alone


def test_a_game_is_won_and_lost() -> None:
    needs("TextArena")
    world = TextArena(["TowerOfHanoi-v0", "Countdown-v0"])
    tower, countdown = world.tasks("validation")[:2]
    session = world.session(tower)
    assert "Tower of Hanoi" in session.reset().text
    moves = ("A C", "A B", "C B", "A C", "B A", "B C", "A C")
    seen = [session.step(world.parse(move)[0]) for move in moves]
    assert [one.done for one in seen] == [False] * 6 + [True]
    assert (seen[-1].reward, seen[-1].success, seen[-1].score) == (1.0, True, 1.0)
    assert "Congratulations" in seen[-1].text
    session = world.session(countdown)
    session.reset()
    first, second = session.step("[x]"), session.step("[x]")
    assert (first.done, second.done, second.reward) == (False, True, 0.0)  # the game gives a text as its reward
    assert first.text.startswith("You attempted an invalid move.")  # and notes the action as its sender
    assert world.parse("I think <think>[1 2]</think> [3 4]") == ("[3 4]", True)
    assert world.parse("left") == ("[left]", False)


@pytest.mark.parametrize(
    ("game", "message"),
    [
        ("Chess-v1", "'Chess-v1'; textarena has no such game"),
        ("GuessTheNumber-v0-train", "'GuessTheNumber-v0-train'; textarena has no such game"),
        ("TicTacToe-v0", "TicTacToe-v0 is not for one player"),
        ("TwentyQuestions-v0", "TwentyQuestions-v0 asks a model over the network; set OPENROUTER_API_KEY"),
    ],
)
def test_games_that_cannot_be_played(game: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("TextArena")
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)
    with pytest.raises(UserError, match=f"data.environment.games: {message}"):
        TextArena([game])
