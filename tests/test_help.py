"""``--help`` explains every option: each argument of each class that a YAML can name has a description."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import typing
from collections.abc import Iterator
from typing import Any

import docstring_parser
import lightning as L
import pytest
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import Strategy

import sdar_pl
from sdar_pl.cli import main
from sdar_pl.datamodule import RolloutDataModule
from sdar_pl.module import SDARModule


def subclasses(base: type) -> Iterator[type]:
    """``base`` and its subclasses, those of sdar_pl only, without the command line's own callbacks and loggers."""
    if own(base) and not base.__module__.startswith("sdar_pl.commands."):
        yield base
    for child in type.__subclasses__(base):
        yield from subclasses(child)


def classes_in(annotation: Any) -> Iterator[type]:
    """The classes that an annotation such as ``Distillation | None`` or ``list[Gate]`` names."""
    if inspect.isclass(annotation):
        yield annotation
    for part in typing.get_args(annotation):
        yield from classes_in(part)


def arguments(part: type) -> list[inspect.Parameter]:
    parameters = inspect.signature(part).parameters.values()
    return [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def nameable() -> list[type]:
    """Every concrete class that a YAML can name: module, datamodule, Lightning plugins, and their arguments' types."""
    for module in pkgutil.walk_packages(sdar_pl.__path__, "sdar_pl."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    reached: list[type] = []
    bases: list[type] = [SDARModule, RolloutDataModule, L.Callback, Logger, Strategy]
    while bases:
        for part in subclasses(bases.pop()):
            if part not in reached and not part.__name__.startswith("_") and not inspect.isabstract(part):
                reached.append(part)
                hints = typing.get_type_hints(part.__init__)
                bases += [c for p in arguments(part) for c in classes_in(hints.get(p.name)) if own(c)]
    return sorted(reached, key=lambda part: (part.__module__, part.__name__))


def own(part: type) -> bool:
    return part.__module__.startswith("sdar_pl.")


def undescribed(part: type) -> list[str]:
    """Arguments without a text in the docstrings of the class, its bases and their constructors."""
    sources = [source for base in inspect.getmro(part) if own(base) for source in (base, vars(base).get("__init__"))]
    documents = [docstring_parser.parse(source.__doc__) for source in sources if source is not None and source.__doc__]
    described = {param.arg_name for document in documents for param in document.params if param.description}
    return [p.name for p in arguments(part) if p.name not in described]


def test_every_argument_has_a_description() -> None:
    parts = nameable()
    silent = {f"{part.__module__}.{part.__name__}": undescribed(part) for part in parts if undescribed(part)}
    assert not silent
    # The walk reaches every slot.
    reached = {part.__name__ for part in parts}
    assert reached >= {"SDAR", "GSPOLoss", "ICSDGate", "Linear", "GiGPOAdvantage", "TransformersEngine", "Sampling"}
    assert reached >= {"Household", "AlfWorld", "UCB", "SiblingEpisode", "MovingAverage", "LoRA", "Prompter"}
    assert reached >= {"PlayRules", "Policy", "SDARModule", "RolloutDataModule", "EpisodeLog", "Checkpoints"}


class Silent:
    """A class.

    Args:
        told: a number.
    """

    def __init__(self, told: int, untold: int = 0) -> None: ...


def test_an_argument_without_description_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Silent, "__module__", "sdar_pl.silent")
    assert undescribed(Silent) == ["untold"]


def test_the_command_line_shows_the_descriptions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", "configs/quickstart.yaml", "--model.objective.help", "sdar_pl.objectives.SDAR"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "slope β ≥ 0 of the gate, in 1/nat; 5 in the paper. (type: float, default: 5.0)" in text
