"""``check-env``: what the command prints of an environment class, and how it ends."""

from __future__ import annotations

import inspect
import sys
import textwrap
from pathlib import Path

import pytest

from sdar_pl.cli import main
from sdar_pl.environments.base import Environment

IMPORTS = """
from collections.abc import Sequence
from dataclasses import replace

from sdar_pl.environments.base import Environment, Session, between
from sdar_pl.errors import UserError
from sdar_pl.types import Observation, Task

"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of the user's, in the folder where the command is started: the environment of the docstring."""
    path = tmp_path / "my_guess.py"
    example = textwrap.dedent((inspect.getdoc(Environment) or "").partition("::")[2])
    path.write_text(IMPORTS + example)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_guess", raising=False)
    return path


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_sound_class(module: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-env", "my_guess.Guess", "--episodes", "3"]) == 0
    checks, played = capsys.readouterr().out.splitlines()
    assert checks == "my_guess.Guess: 20 checks, no violations"
    assert played.startswith("played: 3 tasks of train, 9 episodes (3 random, 3 garbage, 3 expert)")
    assert played.endswith("splits compared: train, validation")


def test_violations_are_lines(module: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(module, "history[max(0, len(history) - steps) :]", "history[-steps:]")
    change(module, "return (str(task.data),)", 'return ("0",)')
    assert main(["check-env", "my_guess.Guess", "--split", "validation"]) == 1
    *lines, checks, _, unchecked = capsys.readouterr().out.splitlines()
    assert lines[0] == "expert_plan: expert_plan() of task validation/8 does not end in success with its last action"
    assert "window: window(steps=0) after 5 turns (task validation/8) shows 5 actions; must show the last 0" in lines
    assert all(line.split(":")[0] in ("expert_plan", "window") for line in lines)
    assert checks == f"my_guess.Guess: 19 checks, {len(lines)} violations"
    assert unchecked == "not checked: splits (one split was named)"


def test_init(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--init", "size=tiny", "train_tasks=3", "--init", "kinds=[pick_two_obj_and_place]", "--episodes", "9"]
    assert main(["check-env", "sdar_pl.environments.household.Household", *arguments, "--split", "train"]) == 0
    assert "played: 3 tasks of train" in capsys.readouterr().out


def test_an_environment_inside_another(module: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "check-env",
        "sdar_pl.environments.faults.Faulty",
        "--init",
        "environment={class_path: my_guess.Guess}",
    ]
    assert main(arguments) == 0
    assert main([*arguments, "exceptions=1"]) == 1
    assert "episodes: reset() of task train/1 raised InjectedError" in capsys.readouterr().out
    assert main([*arguments[:3], "environment={class_path: my_guess.Guess, init_args: {size: 3}}"]) == 2
    assert capsys.readouterr().err.startswith("error: --init: Guess(…) raised TypeError")


def test_a_class_that_never_plays(module: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(module, "return GuessSession(task.data)", "raise OSError('no\\nserver')")
    assert main(["check-env", "my_guess.Guess"]) == 1
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == "episodes: session() of task train/1 raised OSError: 'no\\nserver'"
    assert last == "played: no episode to its end"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: environment"),
        (["Guess"], "Guess: not a class; write module.Class"),
        (["no_such.Guess"], "no_such.Guess: no module 'no_such'; start the command in the folder that holds it"),
        (["my_guess.Guest"], "my_guess has no Guest; name a subclass of"),
        (["my_guess.GuessSession"], "not a subclass of Environment"),
        (["my_guess.Guess", "--init", "size"], "--init: 'size'; write key=value"),
        (["my_guess.Guess", "--init", "size=["], "--init: 'size=[' is not valid YAML"),
        (["my_guess.Guess", "--init", "size=3"], "--init: Guess(…) raised TypeError"),
        (["my_guess.Guess", "--split", "test"], "data.environment: no split 'test'; use train or validation"),
        (["my_guess.Guess", "--episodes", "0"], "--episodes: 0; must be ≥ 1"),
        (["my_guess.Guess", "--episodes", "many"], "argument --episodes: invalid int value: 'many'"),
    ],
)
def test_bad_input(module: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(["check-env", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert message in output.err
    assert output.err.count("\n") == 1


def test_a_module_that_cannot_be_imported(module: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module.write_text("1 / 0\n")
    assert main(["check-env", "my_guess.Guess"]) == 2
    assert capsys.readouterr().err == (
        "error: my_guess.Guess: importing my_guess raised ZeroDivisionError: division by zero\n"
    )
