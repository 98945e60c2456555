"""Every YAML in configs/ is a command line that parses, and says what its comments say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import CONFIGS, ROOT

from sdar_pl.cli import main
from sdar_pl.commands.compare import KINDS

QUICKSTART = CONFIGS / "quickstart.yaml"
ALFWORLD = CONFIGS / "alfworld" / "sdar.yaml"
#: parts that change another config; all the others run alone
PARTS = sorted(file for folder in (*KINDS, "study") for file in (CONFIGS / folder).glob("*.yaml"))
RUNNABLE = sorted(set(CONFIGS.rglob("*.yaml")) - set(PARTS))
pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI.s args")


def parsed(capsys: pytest.CaptureFixture[str], *files: Path, options: tuple[str, ...] = ()) -> dict[str, Any]:
    """The whole configuration as the command line understands it; no model and no environment is loaded."""
    arguments = [word for file in files for word in ("--config", str(file))]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *arguments, *options, "--print_config"])
    assert ended.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert isinstance(config, dict)
    return config


def names(paths: list[Path]) -> list[str]:
    return [path.relative_to(CONFIGS).as_posix() for path in paths]


@pytest.mark.parametrize("file", RUNNABLE, ids=names(RUNNABLE))
def test_a_config_parses(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = parsed(capsys, file)
    assert config["model"]["policy"]
    assert config["data"]["environment"]


@pytest.mark.parametrize("file", PARTS, ids=names(PARTS))
def test_a_part_parses_on_top_of_another_config(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = parsed(capsys, QUICKSTART, file)
    assert_holds(config, yaml.safe_load(file.read_text(encoding="utf-8")))


def assert_holds(config: Any, wanted: Any) -> None:
    """Every key that is wanted is there, with its value."""
    if isinstance(wanted, dict):
        for name, value in wanted.items():
            assert_holds(config[name], value)
    else:
        assert config == wanted


@pytest.mark.parametrize("file", RUNNABLE, ids=names(RUNNABLE))
def test_a_config_says_how_to_run_it(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert f"python -m sdar_pl fit --config {file.relative_to(ROOT).as_posix()}" in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("sdar", "Qwen/Qwen2.5-3B-Instruct"),
        ("grpo", "Qwen/Qwen2.5-3B-Instruct"),
        ("sdar_qwen2.5_7b", "Qwen/Qwen2.5-7B-Instruct"),
        ("sdar_qwen3_1.7b", "Qwen/Qwen3-1.7B"),
    ],
)
def test_the_paper_s_alfworld_recipe(name: str, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = parsed(capsys, CONFIGS / "alfworld" / f"{name}.yaml")
    data, policy = config["data"], config["model"]["policy"]
    objective = config["model"]["objective"]
    prompter, play = data["prompter"]["init_args"], data["play"]
    assert policy["init_args"]["model"] == model
    assert config["model"]["optimizer"]["init_args"]["lr"] == 1e-6
    assert (data["tasks_per_iteration"], data["group_size"]) == (16, 8)
    assert (play["max_turns"], play["invalid_penalty"]) == (50, 0.1)
    assert (prompter["history"], prompter["window"], prompter["max_prompt_tokens"]) == ("windowed", 2, 2048)
    assert (data["sampling"]["temperature"], data["sampling"]["max_new_tokens"]) == (1.0, 512)
    assert (data["evaluation"]["temperature"], data["panel_tasks"]) == (0.4, 128)
    assert (config["trainer"]["max_epochs"], config["trainer"]["check_val_every_n_epoch"]) == (150, 5)
    assert (data["validation_split"], data["test_split"]) == ("valid_seen", "valid_unseen")
    assert data["environment"]["init_args"]["success_reward"] == 10.0
    wanted = {"clip_low": 0.2, "clip_high": 0.2, "reference_coefficient": 0.01}
    if name != "grpo":
        wanted |= {"coefficient": 0.01, "beta": 5.0}
        assert data["context"]["init_args"]["library"] == "alfworld"
    assert {key: objective["init_args"][key] for key in wanted} == wanted


def test_the_skill_library_stays_when_another_retriever_is_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    context = parsed(capsys, ALFWORLD, CONFIGS / "contexts" / "ucb_skills.yaml")["data"]["context"]["init_args"]
    assert context["library"] == "alfworld"
    assert context["retriever"]["class_path"].endswith(".UCB")


@pytest.mark.parametrize("retriever", ["UCB", "Keyword", "All", "Random", "BM25", "ByKind"])
def test_any_retriever_can_be_named(retriever: str, capsys: pytest.CaptureFixture[str]) -> None:
    option = ("--data.context.init_args.retriever", f"sdar_pl.skills.retrievers.{retriever}")
    config = parsed(capsys, ALFWORLD, options=option)
    assert config["data"]["context"]["init_args"]["retriever"]["class_path"] == option[1]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--data.context.init_args.retriever", "sdar_pl.skills.retrievers.Oracle", "Oracle"),
        ("--data.environment.init_args.engine", "thor", "engine"),
        ("--data.play.max_turns", "many", "data.play.max_turns"),
        ("--data.no_such_key", "1", "no_such_key"),
    ],
)
def test_a_bad_value_is_one_line(option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", str(ALFWORLD), option, value]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert message in said
