"""The settings of a run that its checkpoints depend on, by key in YAML: a part of the run's fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from sdar_pl.runtime.optimizer_settings import optimizer_settings
from sdar_pl.runtime.run_fingerprint import arguments_of, attributes_of
from sdar_pl.types import Task

#: attributes of the module that make the method
METHOD = ("objective", "teacher", "teacher_refresh", "correction")
#: arguments of environments that say how fast they run and where their files are; the tasks themselves are compared
NO_SETTINGS = ("workers", "root", "folder", "path", "data", "timeout")


def run_settings(module: Any) -> dict[str, Any]:
    """The settings of an SDARModule and its RolloutDataModule: method, optimizer, data and seed."""
    method = {f"model.{name}": getattr(module, name) for name in METHOD} | {
        f"data.{name}": getattr(module.data, name) for name in ("advantage", "rewards")
    }
    optimizer = optimizer_settings(module.make_optimizer, module.make_scheduler)
    return {**attributes_of(method), **optimizer, **rollout_settings(module.data)}


def rollout_settings(data: Any) -> dict[str, Any]:
    """The settings of a RolloutDataModule, by key in YAML: seed, environment, tasks, history, context and sampling.

    Limits that a run may be resumed with, because an error has told to raise them, are left out.
    """
    split, prompter, rules, sampling = data.splits["train"], data.prompter, data.rules, data.sampling
    return {
        "seed_everything": data.seed,
        **arguments_of(data.environment, "data.environment", NO_SETTINGS),
        "data.train_split": split,
        f"data.environment ({split} tasks)": digest_of_tasks(data.environment.tasks(split)),
        **arguments_of(prompter, "data.prompter", ("max_prompt_tokens", "max_teacher_tokens")),
        **arguments_of(data.context, "data.context", NO_SETTINGS),
        **{f"data.sampling.{name}": value for name, value in vars(sampling).items() if isinstance(value, int | float)},
        "data.play.max_turns": rules.max_turns,
        "data.play.invalid_penalty": rules.invalid_penalty,
        **({"data.keep_for_distillation": True} if data.keep_for_distillation else {}),
        **{
            f"data.{name}": getattr(data, name)
            for name in (
                "tasks_per_iteration",
                "group_size",
                "max_refills",
                "steps_per_iteration",
                "ahead",
                "train_with_context",
            )
        },
    }


def digest_of_tasks(tasks: Sequence[Task]) -> str:
    """The number of tasks, and a hash over 64 of them, spread evenly."""
    chosen = [tasks[i] for i in sorted({len(tasks) * k // 64 for k in range(64)})] if tasks else []
    text = repr([(task.id, task.kind, task.text) for task in chosen])
    return f"{len(tasks)} tasks, {hashlib.sha256(text.encode(errors='replace')).hexdigest()[:8]}"
