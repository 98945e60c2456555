"""No number is forgotten: every number of every class that YAML can name is refused where it is NaN, infinite, beyond
64 bits or, but for seeds, negative. The numbers are found by reflection."""

from __future__ import annotations

import inspect
import math
import typing
from typing import Any

import lightning as L
import pytest
from jsonargparse import Namespace
from test_help import arguments, nameable

from sdar_pl.commands.value_checks import TRAINER, refuse_unusable_values
from sdar_pl.datamodule import RolloutDataModule
from sdar_pl.engines import Sampling
from sdar_pl.environments.faults import Faulty
from sdar_pl.environments.gym_text import GymText
from sdar_pl.environments.household import Household
from sdar_pl.environments.verifiers import Verifiers
from sdar_pl.errors import UserError
from sdar_pl.module import SDARModule
from sdar_pl.objectives import GRPO
from sdar_pl.policy import Policy
from sdar_pl.retrieval.dense import Dense
from sdar_pl.rewards import Judge, Rubric, Succeeds, ToolUse
from sdar_pl.warmup import DemonstrationDataModule, WarmupModule

#: arguments without a default that a class needs before it looks at its numbers
NEEDED: dict[type, dict[str, Any]] = {
    RolloutDataModule: dict.fromkeys(("policy", "environment", "engine", "prompter")) | {"objective": GRPO()},
    SDARModule: {"policy": Policy("tiny-household"), "objective": GRPO()},
    DemonstrationDataModule: dict.fromkeys(("policy", "demonstrations", "prompter")),
    WarmupModule: {"policy": Policy("tiny-household")},
    Faulty: {"environment": Household()},
    Verifiers: {"taskset": "my_tasks.Sums"},
    GymText: {"worlds": {}},
    Dense: {"corpus": "passages.jsonl", "model": "encoder"},
    ToolUse: {"action": "fetch "},
    Rubric: {"stage": "answer", "rule": Succeeds()},
    Judge: {"url": "http://127.0.0.1:8000/v1", "model": "judge"},
}


def numbers(part: type) -> list[str]:
    """Names of the arguments that can be an int or a float."""
    hints = typing.get_type_hints(part.__init__)
    types = {p.name: [hints.get(p.name), *typing.get_args(hints.get(p.name))] for p in arguments(part)}
    return [name for name, kinds in types.items() if int in kinds or float in kinds]


def may_be_negative(part: type, name: str) -> bool:
    """Seeds of generators of Python's own, which take any integer."""
    return name.endswith("seed") and part is not RolloutDataModule


NUMBERS = [(part, name) for part in nameable() for name in numbers(part)]


def test_the_reflection_finds_them() -> None:
    found = {f"{part.__name__}.{name}" for part, name in NUMBERS}
    assert len(found) > 75
    assert found >= {"SDAR.beta", "LoRA.dropout", "Sampling.top_p", "PlayRules.step_timeout", "Linear.steps"}
    assert found >= {"UCB.exploration", "MovingAverage.decay", "Checkpoints.keep", "SDARModule.importance_cap"}


def construct(part: type, **given: float) -> None:
    made = part(**NEEDED.get(part, {}), **given)
    if isinstance(made, Sampling):  # it is used at two keys, so that others check it
        made.check("data.sampling")


@pytest.mark.parametrize(
    ("part", "name"),
    [pair for pair in NUMBERS if not may_be_negative(*pair)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_constructor_refuses_what_is_no_number_of_its_kind(part: type, name: str) -> None:
    for value in (math.nan, -1):
        with pytest.raises(UserError) as error:
            construct(part, **{name: value})
        assert f"{name}: {value:g}; must be" in str(error.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**30, -(10**30)])
def test_no_configuration_holds_a_number_that_is_none(value: float) -> None:
    """Wherever it stands: as an argument of ours, in a list, of the trainer, of an optimizer."""

    def refused(key: str, **parts: Any) -> None:
        trainer = {"default_root_dir": "runs", **parts.pop("trainer", {})}
        config = Namespace(seed_everything=0, trainer=Namespace(**trainer), **parts)
        kinds = {"model": SDARModule, "data": RolloutDataModule, "trainer": L.Trainer}
        with pytest.raises(UserError, match=r"must be (finite|at most)") as error:
            refuse_unusable_values(config, kinds)
        assert str(error.value).startswith(f"{key}: ")

    for part, name in NUMBERS:
        path = f"{part.__module__}.{part.__name__}"
        spec = Namespace(class_path=path, init_args=Namespace(**{name: value}))
        refused(f"model.policy.{name}", model=Namespace(policy=spec))
        refused(f"trainer.callbacks.{part.__name__}.{name}", trainer={"callbacks": [spec]})
    refused("data.sampling.top_p", data=Namespace(sampling=Namespace(top_p=value)))
    adam = Namespace(class_path="torch.optim.AdamW", init_args=Namespace(betas=[0.9, value]))
    refused("model.optimizer.betas", model=Namespace(optimizer=adam))
    for name, parameter in inspect.signature(L.Trainer).parameters.items():
        if {int, float} & {parameter.annotation, *typing.get_args(parameter.annotation)}:
            refused(f"trainer.{name}", trainer={name: value})


@pytest.mark.parametrize("name", TRAINER)
def test_the_trainers_own_numbers(name: str) -> None:
    for value, good in ((TRAINER[name], True), (TRAINER[name] - 1, False)):
        config = Namespace(seed_everything=0, trainer=Namespace(default_root_dir="runs", **{name: value}))
        if good:
            refuse_unusable_values(config, {})
        else:
            with pytest.raises(UserError, match=f"^trainer.{name}: {value}; must be ≥ {TRAINER[name]}$"):
                refuse_unusable_values(config, {})
