"""``python -m sdar_pl check-env``: play an environment class of your own and list where it breaks the contract.

    python -m sdar_pl check-env my_package.Maze
    python -m sdar_pl check-env my_package.Maze --init size=small seed=3 --split train validation --episodes 12
    python -m sdar_pl check-env sdar_pl.environments.faults.Faulty --init 'environment={class_path: my_package.Maze}'

It plays random, scripted (``expert_plan``) and garbage episodes. Exit status 0: no violation; 1: violations, one line
each; 2: bad input. Left out: time limits; a session that hangs hangs the command.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import yaml

from sdar_pl.checks import at_least
from sdar_pl.environments.base import Environment
from sdar_pl.environments.contract import CHECKS, Report, Subject, check
from sdar_pl.errors import UserError
from sdar_pl.runtime.messages import PlainParser
from sdar_pl.runtime.words import shown

#: compared with each other where no ``--split`` is given, as far as the environment has them
SPLITS = ("train", "validation", "test")


def main(arguments: Sequence[str]) -> int:
    """The subcommand → exit status. Raises ``UserError``."""
    parser = PlainParser(
        prog="python -m sdar_pl check-env",
        description="Play an environment class of your own and list where it breaks the contract of environments.",
    )
    parser.add_argument("environment", help="the class, as module.Class; modules are also looked for in this folder")
    parser.add_argument(
        *["--init"], nargs="+", action="extend", default=[], metavar="key=value", help="arguments of the constructor"
    )
    parser.add_argument(
        *["--split"],
        nargs="+",
        default=[],
        help="the split to play, then others to compare it with (train, validation, test)",
    )
    parser.add_argument("--episodes", type=int, default=6, help="number of tasks to play, each at random, with garbage "
                        "and by its expert_plan (6)")  # fmt: skip
    options = parser.parse_args(list(arguments))
    at_least("--episodes", options.episodes, 1)
    environment_class = _class(options.environment)
    keys = _init(options.init)
    subject = Subject(lambda: _make(environment_class, keys), options.split or SPLITS[:1], options.episodes)
    if not options.split:
        subject = Subject(subject.make, _default_splits(subject.environment), options.episodes)
    report = check(subject)
    for name, lines in report.violations.items():
        for line in lines:
            print(shown(f"{name}: {line}"))
    print(*map(shown, _summary(options.environment, subject, report)), sep="\n")
    return 1 if report.violations else 0


def _class(path: str) -> type[Environment]:
    module, _, name = path.rpartition(".")
    if not module:
        raise UserError(f"{path}: not a class; write module.Class")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        value = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        raise UserError(f"{path}: no module {error.name!r}; start the command in the folder that holds it") from error
    except Exception as error:
        raise UserError(f"{path}: importing {module} raised {type(error).__name__}: {error}") from error
    if not isinstance(value, type) or not issubclass(value, Environment):
        problem = f"{module} has no {name}" if value is None else "not a subclass of Environment"
        raise UserError(f"{path}: {problem}; name a subclass of sdar_pl.environments.base.Environment")
    return value


def _init(pairs: Sequence[str]) -> dict[str, Any]:
    """``key=value`` … → the constructor's arguments. Values are YAML, as in a configuration."""
    arguments = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UserError(f"--init: {pair!r}; write key=value")
        try:
            arguments[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"--init: {pair!r} is not valid YAML") from error
    return arguments


def _make(environment_class: type[Environment], arguments: dict[str, Any]) -> Environment:
    """The environment. An argument with a ``class_path`` is made first, as in a configuration."""
    arguments = {
        name: _make(_class(str(value["class_path"])), value.get("init_args") or {})
        if isinstance(value, dict) and "class_path" in value
        else value
        for name, value in arguments.items()
    }
    try:
        return environment_class(**arguments)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"--init: {environment_class.__name__}(…) raised {type(error).__name__}: {error}") from error


def _default_splits(environment: Environment) -> list[str]:
    """Those of ``SPLITS`` that exist; the first one must."""
    environment.tasks(SPLITS[0])
    existing = []
    for split in SPLITS:
        try:
            environment.tasks(split)
        except UserError:
            continue
        existing.append(split)
    return existing


def _summary(path: str, subject: Subject, report: Report) -> list[str]:
    violations = sum(map(len, report.violations.values()))
    lines = [
        f"{path}: {len(CHECKS) - len(report.unchecked)} checks, {violations or 'no'} "
        f"violation{'' if violations == 1 else 's'}"
    ]
    try:
        steps = sum(len(play.steps) for play in subject.plays)
        lines.append(
            f"played: {len(subject.tasks)} tasks of {subject.splits[0]}, {len(subject.plays)} episodes "
            f"({len(subject.random_plays)} random, {len(subject.garbage_plays)} garbage, {len(subject.expert_plays)} "
            f"expert), {steps} steps; splits compared: {', '.join(subject.splits)}"
        )
    except Exception:  # named above as a violation
        lines.append("played: no episode to its end")
    return [*lines, *(f"not checked: {name} ({reason})" for name, reason in report.unchecked.items())]
