"""The grammar of ``compare --objectives``: names, files, overrides, and the folders of the methods."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import CONFIGS, ROOT
from helpers.configs import parsed

from sdar_pl.commands.compare_methods import Method, find_part, parse_methods
from sdar_pl.errors import UserError

RECIPE = CONFIGS / "quickstart.yaml"
OBJECTIVE = "--model.objective.init_args."


def methods(text: str) -> list[Method]:
    return parse_methods(text, RECIPE)


def file(name: str) -> str:
    return f"--config={CONFIGS / name}.yaml"


@pytest.mark.parametrize(
    ("text", "name", "arguments"),
    [
        ("sdar", "sdar", [file("objectives/sdar")]),
        (
            " sdar ( coefficient = 0.2 ) ",
            "sdar(coefficient=0.2)",
            [file("objectives/sdar"), f"{OBJECTIVE}coefficient=0.2"],
        ),
        (
            "sdar(gate=centred,coefficient=1)+initial",
            "sdar(gate=centred,coefficient=1)+initial",
            [
                file("objectives/sdar"),
                f"{OBJECTIVE}gate=centred",
                f"{OBJECTIVE}coefficient=1",
                file("teachers/initial"),
            ],
        ),
        (
            "opsd(distillation.coefficient=1e+0)",
            "opsd(distillation.coefficient=1e+0)",
            [file("objectives/opsd"), f"{OBJECTIVE}distillation.coefficient=1e+0"],
        ),
        (
            "sdar(model.teacher=Initial,data.play.max_turns=3,trainer.max_epochs=1)",
            "sdar(model.teacher=Initial,data.play.max_turns=3,trainer.max_epochs=1)",
            [file("objectives/sdar"), "--model.teacher=Initial", "--data.play.max_turns=3", "--trainer.max_epochs=1"],
        ),
        (
            "sdar(schedule={class_path: Linear, init_args: {steps: 8}})",
            "sdar(schedule={class_path: Linear, init_args: {steps: 8}})",
            [file("objectives/sdar"), f"{OBJECTIVE}schedule={{class_path: Linear, init_args: {{steps: 8}}}}"],
        ),
        (
            "sdar(data.prompter.system='be brief, (please)')",
            "sdar(data.prompter.system='be brief, (please)')",
            [file("objectives/sdar"), "--data.prompter.system='be brief, (please)'"],
        ),
    ],
)
def test_one_method(text: str, name: str, arguments: list[str]) -> None:
    (method,) = methods(text)
    assert method.name == name
    assert list(method.arguments) == arguments
    assert method.has_overrides == ("(" in name)


def test_commas_separate_methods_outside_brackets_only() -> None:
    names = [method.name for method in methods("grpo,sdar(gate=centred,coefficient=1),sdar(coefficient=0.2)+initial")]
    assert names == ["grpo", "sdar(gate=centred,coefficient=1)", "sdar(coefficient=0.2)+initial"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sdar(coefficient)", r"'sdar\(coefficient\)': 'coefficient'; must be key=value"),
        ("sdar(coefficient=)", r"'coefficient='; must be key=value"),
        ("sdar(=1)", "'=1'; must be key=value"),
        ("sdar()", "''; must be key=value"),
        ("sdar(a=1,)", "''; must be key=value"),
        ("sdar(--coefficient=1)", "'--coefficient=1'; must be key=value"),
        ("sdar(beta=1,beta=2)", "beta is set twice"),
        ("sdar(schedule={a: [}])", r"\} closes nothing"),
        ("sdar(beta={a: 1: 2})", "the value of beta is not valid YAML"),
        ("sdar(beta=1", r"no \) at the end"),
        ("sdar(beta='1)", "no ' at the end"),
        ("sdar beta=1)", r"\) closes nothing"),
        ("sdar(beta=1)x", r"must be a name or a file, then maybe \(key=value"),
        ("(beta=1)", "no '' beside"),
        ("sadr(beta=1)", "no 'sadr' beside .*give a file or one of agent_opsd, all_skills"),
        ("sdar(beta=1),sdar( beta=1 )", r"'sdar\(beta=1\)' is named twice"),
        ("absent.yaml(beta=1)", "no file absent.yaml"),
    ],
)
def test_a_typing_mistake_is_named(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        methods(text)
    assert str(raised.value).startswith("--objectives: ")


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("grpo", "grpo"),
        ("sdar+random_skills", "sdar+random_skills"),
        ("sdar(coefficient=0.2)", "sdar_coefficient=0.2"),
        ("sdar(gate=centred,coefficient=1)+initial", "sdar_gate=centred_coefficient=1+initial"),
        ("sdar(coefficient=-1)", "sdar_coefficient=-1"),
    ],
)
def test_a_folder_is_readable(text: str, folder: str) -> None:
    assert methods(text)[0].folder == folder


def test_a_folder_is_safe() -> None:
    texts = [
        "sdar(data.prompter.system='/../x y')",
        "sdar(data.prompter.system='/../x_y')",
        f"sdar(data.x={'long' * 99})",
    ]
    folders = [methods(text)[0].folder for text in texts]
    assert len(set(folders)) == 3
    for folder in folders:
        assert len(folder) < 100
        assert set("/ '\"(){}:") & set(folder) == set()


def test_overrides_count_as_content() -> None:
    one, other, plain = methods("sdar(beta=1),sdar(beta=2),sdar")
    assert one.content() != other.content()
    assert plain.content()[0] == one.content()[0]
    assert plain.content()[0]["model"]["objective"]["class_path"] == "sdar_pl.objectives.SDAR"


def test_the_command_line_understands_the_overrides() -> None:
    method = methods(
        "sdar(coefficient=0.2,schedule={class_path: Linear, init_args: {end: 0.5, steps: 8}},model.teacher=Initial)"
    )[0]
    config = parsed(RECIPE, options=method.arguments)["model"]
    assert config["objective"]["init_args"]["coefficient"] == 0.2
    assert config["objective"]["init_args"]["schedule"]["init_args"] == {"start": 1.0, "end": 0.5, "steps": 8}
    assert config["teacher"]["class_path"] == "sdar_pl.teachers.Initial"
    opsd = methods("opsd(distillation.coefficient=1)")[0]
    distillation = parsed(RECIPE, options=opsd.arguments)["model"]["objective"]["init_args"]["distillation"]
    assert distillation["init_args"]["coefficient"] == 1
    assert distillation["init_args"]["gate"]["class_path"] == "sdar_pl.objectives.GapGate"


@pytest.mark.parametrize("name", ["sdar", "ucb_skills", "ema", "qwen3_1.7b", "one_24gb"])
def test_parts_of_every_folder_are_found(name: str) -> None:
    for recipe in ("quickstart.yaml", "alfworld/sdar.yaml"):
        assert find_part(name, CONFIGS / recipe).stem == name


@pytest.mark.slow
def test_an_unknown_key_is_one_line_before_anything_runs(tmp_path: Path) -> None:
    """With the real ``fit``."""
    command = [sys.executable, "-m", "sdar_pl", "compare", "--config", str(RECIPE), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [*command, "--objectives", "grpo,sdar(coeficient=1)"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2
    key = "model.objective.init_args.coeficient: no such key; did you mean coefficient? (on the command line)"
    assert done.stderr == f"error: --objectives: sdar(coeficient=1): {key}\n"
    assert not (tmp_path / "out").exists()
