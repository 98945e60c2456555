"""``python -m sdar_pl plan --config file.yaml``: how much memory a run will take on every rank; loads nothing.

The model is built from its configuration alone, on the meta device; one micro-batch of its update and one of its
prompts run on tensors without data (modeling/memory.py). Engine and teacher answer for themselves (``memory``). Left
out: engines in processes of their own, and what modeling/memory.py leaves out.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy

from sdar_pl.checks import at_least
from sdar_pl.commands.lightning_cli import CommandLine, launch
from sdar_pl.commands.value_checks import try_optimizer
from sdar_pl.datamodule import RolloutDataModule
from sdar_pl.engines import Engine, RolloutSize, Sampling
from sdar_pl.errors import UserError
from sdar_pl.modeling.memory import Memory, Update, height, optimizer_bytes, update_bytes
from sdar_pl.modeling.skeleton import Skeleton, build_skeleton
from sdar_pl.module import SDARModule
from sdar_pl.objectives import Estimator
from sdar_pl.policy import DTYPES, LoRA, ModelSource
from sdar_pl.rollout import PlayRules
from sdar_pl.runtime.config_files import add_places
from sdar_pl.runtime.precision import TRUE_PRECISIONS
from sdar_pl.runtime.strategy import FSDP2Strategy
from sdar_pl.runtime.words import bytes_in_words
from sdar_pl.sampling.budget import MOST_TOKENS
from sdar_pl.teachers import Teacher


def main(arguments: Sequence[str]) -> int:
    """The subcommand → exit status. Raises ``UserError``."""
    with add_places(arguments):
        launch(
            PlanCommandLine,
            SDARModule,
            RolloutDataModule,
            arguments,
            prog="python -m sdar_pl plan",
            description="The memory that ``fit`` with the same arguments takes on every rank; loads no weights.",
            subcommands=False,
        )
    return 0


class PlanCommandLine(CommandLine):
    """Parses what ``fit`` would, and prints the plan of it instead of running it."""

    def add_arguments_to_parser(self, parser: Any) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--json", action="store_true", help="Print bytes as JSON.")

    def instantiate_classes(self) -> None:
        result = plan(self.config)
        print(result.as_json() if self.config.json else result)


@dataclass
class Plan:
    """Memory of one rank. ``fixed`` is there always, ``rollout`` and ``update`` come and go."""

    model: str
    parameters: int
    trained: int
    ranks: int
    shards: int
    fixed: dict[str, Memory]
    rollout: dict[str, Memory]
    update: dict[str, Memory]

    @property
    def peaks(self) -> dict[str, int]:
        """Phase → bytes at its height."""
        return {"rollout": height(self.fixed | self.rollout), "update": height(self.fixed | self.update)}

    def as_json(self) -> str:
        """Everything, in bytes."""
        phases = {"fixed": self.fixed, "rollout": self.rollout, "update": self.update}
        sizes = {phase: {name: part.size for name, part in parts.items()} for phase, parts in phases.items()}
        notes = {name: part.note for parts in phases.values() for name, part in parts.items() if part.note}
        peaks = {**self.peaks, "total": max(self.peaks.values())}
        more = {"notes": notes, "share": self.trained / self.parameters, "peaks": peaks}
        return json.dumps({**vars(self), **sizes, **more}, indent=2)

    def __str__(self) -> str:
        share = f"{100 * self.trained / self.parameters:.2f} %"
        sharded = f", weights sharded over {self.shards}" if self.shards > 1 else ""
        lines = [
            f"model        {self.model}",
            f"parameters   {self.parameters:,}, {self.trained:,} of them trained ({share})",
            f"ranks        {self.ranks}{sharded}",
            "",
            "on each rank",
        ]
        for title, parts in {"always": self.fixed, "rollout": self.rollout, "update": self.update}.items():
            for name, part in parts.items():
                turn = "~" if part.in_turn else " "
                lines.append(f"  {title:<8}{turn}{name:<24} {bytes_in_words(part.size):>10}  {part.note}".rstrip())
                title = ""
        lines.append("  ~ one at a time: the largest counts")
        lines += ["", *(f"peak of the {name:<8} {bytes_in_words(size):>23}" for name, size in self.peaks.items())]
        return "\n".join(lines)


def plan(config: Any) -> Plan:
    """The plan of a parsed ``fit`` configuration. Raises ``UserError`` where the model cannot be built."""
    refuse_numbers(config)
    model, (ranks, shards) = skeleton(config), layout(config.trainer)
    trained = sum(parameter.numel() for parameter in model.trained)
    return Plan(
        config.model.policy.init_args.model,
        model.parameters,
        trained,
        ranks,
        shards,
        fixed=fixed(config, model, trained, shards),
        rollout=rollout(config, model, ranks, shards),
        update=update(config, model, ranks, shards),
    )


def refuse_numbers(config: Any) -> None:
    """Raises ``UserError`` for numbers out of range. A plan makes neither module nor datamodule, which check them."""
    data = config.data
    for name in ("tasks_per_iteration", "group_size", "steps_per_iteration", "micro_batch_tokens"):
        at_least(f"data.{name}", None if data[name] == "auto" else data[name], 1)
    at_least("model.policy.logits_chunk", config.model.policy.init_args.logits_chunk, 1)
    Sampling(**vars(data.sampling)).check("data.sampling")
    PlayRules(**vars(data.play))
    _instance(data.prompter)
    make = partial(_imported(config.model.optimizer.class_path), **vars(config.model.optimizer.init_args))
    try_optimizer(config.model, make, None)


def skeleton(config: Any) -> Skeleton:
    """The policy of a configuration, without data."""
    policy, precision = config.model.policy.init_args, str(config.trainer.precision)
    mixed = precision in ("bf16-mixed", "16-mixed", "bf16", "16")
    return build_skeleton(
        ModelSource(policy.model, policy.gguf_file, policy.random_weights),
        LoRA(**vars(policy.lora)) if policy.lora else None,
        policy.quantization,
        base_dtype(config),
        policy.attention,
        partial(torch.autocast, "cpu", torch.bfloat16) if mixed else contextlib.nullcontext,
        policy.folded_lora,
        policy.lean_layers,
    )


def base_dtype(config: Any) -> torch.dtype:
    """The dtype of the base weights: a true precision's, else the policy's."""
    return TRUE_PRECISIONS.get(str(config.trainer.precision), DTYPES[config.model.policy.init_args.dtype])


def fixed(config: Any, model: Skeleton, trained: int, shards: int) -> dict[str, Memory]:
    """What is there as long as the run: weights, optimizer, teacher."""
    policy, optimizer = config.model.policy.init_args, config.model.optimizer
    state = optimizer_bytes(partial(_imported(optimizer.class_path), **vars(optimizer.init_args)), model.trained)
    teacher: Teacher = _instance(config.model.teacher)
    stored = policy.quantization or str(base_dtype(config)).removeprefix("torch.")
    return {
        "weights": Memory(model.weights // shards + model.statistics, stored),
        "adapters": Memory(model.adapters // shards),
        "optimizer": Memory(state // shards, optimizer.class_path),
        **{name: replace(part, size=part.size // shards) for name, part in teacher.memory(trained).items()},
    }


def rollout(config: Any, model: Skeleton, ranks: int, shards: int) -> dict[str, Memory]:
    """What generation takes: the engine's share and, where weights are sharded, the whole of them."""
    data, prompter = config.data, config.data.prompter.init_args
    size = RolloutSize(
        sessions=ceil(data.tasks_per_iteration / ranks) * data.group_size,
        prompt_tokens=prompter.max_prompt_tokens,
        response_tokens=data.sampling.max_new_tokens,
        keep=prompter.history == "conversation",
        on_gpu=_on_gpu(config.trainer),
    )
    engine: Engine = _instance(data.engine)
    parts = engine.memory(model, size)
    return parts | ({"gathered weights": Memory(model.weights + model.adapters)} if shards > 1 else {})


def update(config: Any, model: Skeleton, ranks: int, shards: int) -> dict[str, Memory]:
    """What the forward and backward of one micro-batch take, and the gradients."""
    policy, data, prompter = config.model.policy.init_args, config.data, config.data.prompter.init_args
    length = prompter.max_prompt_tokens + data.sampling.max_new_tokens
    most = MOST_TOKENS if data.micro_batch_tokens == "auto" else data.micro_batch_tokens
    rows = max(1, most // length)
    turns = data.play.max_turns if prompter.history == "conversation" else 1
    responses = rows * min(turns * data.sampling.max_new_tokens, length - 1)
    measure = partial(
        update_bytes,
        model.net,
        rows,
        length,
        responses,
        chunk=policy.logits_chunk,
        precision=model.precision,
        top_k=_top_k(config.model.objective),
    )
    chosen: Update = measure(checkpointing=policy.gradient_checkpointing)
    other: Update = measure(checkpointing=not policy.gradient_checkpointing)
    word = "without" if policy.gradient_checkpointing else "with"
    note = f"{rows} rows × {length:,} tokens; {bytes_in_words(other.saved)} {word} gradient checkpointing"
    gradients = sum(parameter.nbytes for parameter in model.trained)
    parts = {
        "gradients": Memory(gradients // shards),
        "activations": Memory(chosen.saved, note),
        "one layer's backward": Memory(chosen.layer + model.unpacked, in_turn=True),
        "logits chunk": Memory(chosen.logits, f"{min(policy.logits_chunk, responses):,} tokens", in_turn=True),
    }
    if shards > 1:
        parts["gathered layers"] = Memory(model.gathered_bytes(), "two decoder layers, embeddings and output layer")
    elif ranks > 1:
        parts["gradient buckets"] = Memory(gradients)
    return parts


def _on_gpu(trainer: Any) -> bool:
    """Whether a run computes on CUDA devices; a plan for a GPU may be made on a machine without one."""
    return trainer.accelerator in ("gpu", "cuda") or (trainer.accelerator == "auto" and torch.cuda.is_available())


def layout(trainer: Any) -> tuple[int, int]:
    """(ranks, ranks that share one set of weights)."""
    devices = trainer.devices
    if isinstance(devices, str) and devices.isdigit():
        devices = int(devices)
    if devices in ("auto", -1, "-1"):
        devices = torch.cuda.device_count() if _on_gpu(trainer) else 1
    elif isinstance(devices, str) and not re.fullmatch(r"-?\d+(,\d+)*,?", devices):
        raise UserError(f"trainer.devices: {devices!r}; must be a number of devices, a list of them, or auto")
    elif not isinstance(devices, int):
        devices = len([one for one in devices.split(",") if one] if isinstance(devices, str) else devices)
    ranks = max(1, devices) * trainer.num_nodes
    strategy = trainer.strategy
    if strategy == "fsdp2":
        return ranks, ranks
    kind = None if isinstance(strategy, str) else _imported(strategy.class_path)
    if not (isinstance(kind, type) and issubclass(kind, ModelParallelStrategy)):
        return ranks, 1
    size = strategy.init_args.data_parallel_size
    every = ranks if issubclass(kind, FSDP2Strategy) else trainer.num_nodes
    return ranks, every if size == "auto" else int(size)


def _top_k(objective: Any) -> int:
    """Of how many of the teacher's likeliest tokens a configured objective wants log-probs."""
    config = objective.get("init_args.distillation.init_args.estimator")
    if config is None:
        return 0
    estimator: Estimator = _instance(config)
    return estimator.top_k


def _instance(config: Any) -> Any:
    """What a ``class_path`` with its ``init_args`` names; plain arguments only."""
    return _imported(config.class_path)(**dict(config.get("init_args") or {}))


def _imported(path: str) -> Any:
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)
