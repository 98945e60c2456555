"""docs/alfworld.md, "Against the paper": its tables hold for the configs and are complete."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import yaml
from helpers import CONFIGS, ROOT
from helpers.configs import parsed

RECIPES = ("sdar.yaml", "conversation.yaml", "tiny.yaml")
#: keys that say what a machine allows and change nothing that is computed
OF_THE_MACHINE = ("trainer.accelerator", "trainer.devices", "data.engine.", "logits_chunk", "gradient_checkpointing")
pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI.s args")


def tables() -> list[list[list[str]]]:
    """The cells of the section's two tables, without their heads."""
    section = (
        (ROOT / "docs" / "alfworld.md").read_text(encoding="utf-8").split("## Against the paper")[1].split("\n## ")[0]
    )
    blocks = re.findall(r"((?:^\|.*\|\n)+)", section, re.MULTILINE)
    return [[[cell.strip() for cell in row.split("|")[1:-1]] for row in block.splitlines()[2:]] for block in blocks]


DEVIATIONS, SETTINGS = tables()


@cache
def recipe(name: str) -> dict[str, Any]:
    """The leaves of a recipe's whole configuration, by their keys without ``init_args``."""
    return dict(leaves(parsed(f"alfworld/{name}")))


def leaves(config: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(config, dict):
        for key, value in config.items():
            yield from leaves(value, name if key == "init_args" else f"{name}.{key}".lstrip("."))
    elif name.rpartition(".")[2] != "class_path":
        yield name, config


@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row[0])
def test_the_settings_are_those_of_the_recipes(row: list[str]) -> None:
    key = row[0].strip("`")
    assert [yaml.safe_load(cell) for cell in row[2:]] == [recipe(name)[key] for name in RECIPES]


def test_no_difference_between_the_recipes_is_left_out() -> None:
    keys = set().union(*map(recipe, RECIPES))
    different = {key for key in keys if len({repr(recipe(name).get(key)) for name in RECIPES}) > 1}
    listed = {row[0].strip("`") for row in SETTINGS}
    assert {key for key in different if not any(part in key for part in OF_THE_MACHINE)} <= listed


def test_no_difference_from_the_paper_is_left_out() -> None:
    """What sdar.yaml sets otherwise than the paper, or on its own, belongs to a deviation of the first table."""
    of = {
        "model.policy.lora.r": "Trained weights",
        "model.policy.lora.alpha": "Trained weights",
        "model.policy.dtype": "Trained weights",
        "data.steps_per_iteration": "Mini-batch",
        "data.prompter.max_teacher_tokens": "Teacher's prompt",
        "data.context.library": "Wording",
    }
    assert {row[0].strip("`") for row in SETTINGS if row[1] != row[2]} == set(of)
    assert set(of.values()) <= {row[0] for row in DEVIATIONS}


def test_the_head_of_the_recipe_has_the_same_list() -> None:
    head = (CONFIGS / "alfworld" / "sdar.yaml").read_text(encoding="utf-8").split("seed_everything")[0]
    assert re.findall(r"^# - ([^:]+):", head, re.MULTILINE) == [row[0] for row in DEVIATIONS]


def test_the_ways_to_the_papers_settings_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    commands = [re.findall(r"`(--[^`]+)`", row[-1]) for row in DEVIATIONS]
    assert all(found or row[-1] == "no option" for found, row in zip(commands, DEVIATIONS, strict=True))
    words = shlex.split(" ".join(command for found in commands for command in found))
    got = dict(leaves(parsed("alfworld/sdar.yaml", options=words)))
    for option, value in zip(words[::2], words[1::2], strict=True):
        key = option.removeprefix("--").replace(".init_args", "")
        if key != "config":
            assert got[key] == yaml.safe_load(value) != recipe("sdar.yaml").get(key, "unlike")
