"""Every YAML in configs/ is a recipe or a part of one, parses, and states its command."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import CONFIGS, ROOT
from helpers.configs import PARTS, parsed

from sdar_pl.cli import main
from sdar_pl.commands.compare_methods import PART_FOLDERS

ALFWORLD = CONFIGS / "alfworld" / "sdar.yaml"
FILES = sorted(CONFIGS.rglob("*.yaml"))
WARMUPS = sorted((CONFIGS / "warmup").glob("*.yaml"))
RECIPES = [file for file in FILES if file.parent.name not in PARTS and file not in WARMUPS]
WITH_RECIPE = [
    (recipe, file.relative_to(CONFIGS).as_posix())
    for folder, recipes in PARTS.items()
    for file in sorted((CONFIGS / folder).glob("*.yaml"))
    for recipe in recipes
]
pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI.s args")


def below(path: Path) -> str:
    return path.relative_to(CONFIGS).as_posix()


def test_every_folder_holds_recipes_or_parts() -> None:
    assert set(PARTS) == set(PART_FOLDERS)
    folders = {"configs", "household", "alfworld", "search_qa", "webshop", "other_environments", "companions"}
    assert {file.parent.name for file in RECIPES} == folders
    assert not [path for path in CONFIGS.rglob("*") if path.is_file() and path.suffix not in (".yaml", ".md")]


@pytest.mark.parametrize("file", RECIPES, ids=below)
def test_a_recipe_parses(file: Path) -> None:
    config = parsed(file)
    assert config["model"]["policy"]
    assert config["data"]["environment"]


@pytest.mark.parametrize("file", WARMUPS, ids=below)
def test_a_warm_up_parses(file: Path) -> None:
    config = parsed(file, command="warmup")
    assert config["data"]["demonstrations"]["class_path"].startswith(("scripts.tiny_worlds.", "sdar_pl.warmup."))


@pytest.mark.parametrize(("recipe", "part"), WITH_RECIPE, ids=map("+".join, WITH_RECIPE))
def test_a_part_parses_on_top_of_the_recipes_it_is_meant_for(recipe: str, part: str) -> None:
    assert_holds(parsed(recipe, part), yaml.safe_load((CONFIGS / part).read_text(encoding="utf-8")))


def assert_holds(config: Any, wanted: Any) -> None:
    """Every key of ``wanted`` is in ``config`` with its value, possibly below ``init_args``."""
    if isinstance(wanted, dict):
        for name, value in wanted.items():
            assert_holds(config[name] if name in config else config["init_args"][name], value)
    else:
        assert config == wanted


@pytest.mark.parametrize("file", FILES, ids=below)
def test_a_file_states_its_command_and_has_one_style(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert max(map(len, text.splitlines()[1:])) <= 120  # a method's first line is its row of docs/methods.md
    if file.parent.name not in ("objectives", "contexts", "teachers"):  # theirs stands in docs/methods.md
        assert re.search(
            rf"^#   python -m sdar_pl (?:fit|warmup) (.*\n?.*)--config {file.relative_to(ROOT)}", text, re.MULTILINE
        )
    for name, value in leaves(yaml.safe_load(text)):
        named = name in ("class_path", "make")
        assert named or not str(value).startswith("sdar_pl."), f"{name}: write {{class_path: {value}}}"
        assert value not in ("sdar_pl.prompts.Prompter", "sdar_pl.policy.Policy"), "one class: its arguments suffice"


def leaves(config: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(config, dict):
        for key, value in config.items():
            yield from leaves(value, key)
    else:
        yield name, config


def test_no_recipe_is_another_with_three_lines_changed() -> None:
    lines = {file: [line for line in file.read_text().splitlines() if line[:1] != "#"] for file in RECIPES}
    for file in RECIPES:
        for other in RECIPES:
            assert file == other or len(set(lines[file]) - set(lines[other])) > 3, f"{file}: a part of {other} would do"


def commands_of_the_readme() -> list[str]:
    text = (CONFIGS / "README.md").read_text(encoding="utf-8")
    return re.findall(r"`(--config configs/[^`]+)`", text) + re.findall(r"^    python -m sdar_pl fit (.+)$", text, re.M)


@pytest.mark.parametrize("command", commands_of_the_readme())
def test_the_readme_s_commands_parse(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert parsed(options=shlex.split(command))["data"]["environment"]


def test_the_readme_names_every_recipe_and_folder() -> None:
    text = (CONFIGS / "README.md").read_text(encoding="utf-8")
    for file in RECIPES:
        assert file.relative_to(ROOT).as_posix() in text
    for folder in PARTS:
        assert f"| `{folder}/` |" in text


@pytest.mark.parametrize(
    ("parts", "model", "tokens"),
    [
        ((), "Qwen/Qwen2.5-3B-Instruct", 16384),
        (("objectives/grpo.yaml",), "Qwen/Qwen2.5-3B-Instruct", 16384),
        (("models/qwen2.5_7b.yaml",), "Qwen/Qwen2.5-7B-Instruct", 8192),
        (("models/qwen3_1.7b.yaml",), "Qwen/Qwen3-1.7B", 16384),
    ],
)
def test_the_paper_s_alfworld_recipe(parts: tuple[str, ...], model: str, tokens: int) -> None:
    config = parsed(ALFWORLD, *parts)
    data, policy = config["data"], config["model"]["policy"]
    objective = config["model"]["objective"]
    prompter, play = data["prompter"]["init_args"], data["play"]
    assert policy["init_args"]["model"] == model
    assert config["model"]["optimizer"]["init_args"]["lr"] == 1e-6
    assert (data["tasks_per_iteration"], data["group_size"], data["micro_batch_tokens"]) == (16, 8, tokens)
    assert (play["max_turns"], play["invalid_penalty"]) == (50, 0.1)
    assert (prompter["history"], prompter["window"], prompter["max_prompt_tokens"]) == ("windowed", 2, 2048)
    assert (data["sampling"]["temperature"], data["sampling"]["max_new_tokens"]) == (1.0, 512)
    assert (data["evaluation"]["temperature"], data["panel_tasks"]) == (0.4, 128)
    assert (config["trainer"]["max_epochs"], config["trainer"]["check_val_every_n_epoch"]) == (150, 5)
    assert (data["validation_split"], data["test_split"]) == ("valid_seen", "valid_unseen")
    assert data["environment"]["init_args"]["success_reward"] == 10.0
    assert data["context"]["init_args"]["library"] == "alfworld"
    wanted = {"clip_low": 0.2, "clip_high": 0.2, "reference_coefficient": 0.01, "entropy_coefficient": 0.001}
    if "objectives/grpo.yaml" not in parts:
        wanted |= {"coefficient": 0.01, "beta": 5.0}
    assert {key: objective["init_args"].get(key) for key in wanted} == wanted


def test_the_paper_s_search_qa_recipe() -> None:
    config = parsed("search_qa/sdar.yaml")
    data, prompter = config["data"], config["data"]["prompter"]["init_args"]
    assert (data["tasks_per_iteration"], data["group_size"], data["panel_tasks"]) == (128, 8, 512)
    assert (data["play"]["max_turns"], data["play"]["invalid_penalty"]) == (4, 0.01)
    assert (prompter["history"], prompter["window"], prompter["max_prompt_tokens"]) == ("windowed", 4, 4096)
    assert (data["sampling"]["temperature"], data["sampling"]["max_new_tokens"]) == (1.0, 512)
    assert data["evaluation"]["temperature"] == 0.0
    assert data["environment"]["init_args"]["success_reward"] == 10.0
    objective = config["model"]["objective"]["init_args"]
    assert (objective["coefficient"], objective["beta"], objective["reference_coefficient"]) == (0.01, 5.0, 0.001)
    steps = config["trainer"]["max_epochs"] * data["steps_per_iteration"]
    assert config["model"]["scheduler"]["init_args"]["total_iters"] == steps // 10


def test_init_args_of_another_class_stay_where_both_classes_have_them() -> None:
    config = parsed(ALFWORLD, "objectives/grpo.yaml")["model"]["objective"]["init_args"]
    assert config["entropy_coefficient"] == 0.001
    assert "beta" not in config


def test_the_skill_library_stays_when_another_retriever_is_chosen() -> None:
    context = parsed(ALFWORLD, "contexts/ucb_skills.yaml")["data"]["context"]["init_args"]
    assert context["library"] == "alfworld"
    assert context["retriever"]["class_path"].endswith(".UCB")


@pytest.mark.parametrize("retriever", ["UCB", "Keyword", "All", "Random", "BM25", "ByKind"])
def test_any_retriever_can_be_named(retriever: str) -> None:
    option = ("--data.context.init_args.retriever", f"sdar_pl.skills.retrievers.{retriever}")
    config = parsed(ALFWORLD, options=option)
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
