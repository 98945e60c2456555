"""``python -m sdar_pl plan --config file.yaml``: how much memory a run will take on every rank; loads nothing.

The model is built from its configuration alone, on the meta device; one micro-batch of its update and one of its
prompts run on tensors without data (memory.py). Left out: the vLLM engine's own memory, and what memory.py leaves out.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import Any

import torch
from torch import nn

from sdar_pl.commands.lightning_cli import CommandLine, launch
from sdar_pl.datamodule import RolloutDataModule
from sdar_pl.engines.kv import COLUMNS_AT_ONCE
from sdar_pl.engines.transformers import LEAVE_SHARE
from sdar_pl.errors import UserError
from sdar_pl.modeling.adapters import LoRA, adapt
from sdar_pl.modeling.architectures import read_config
from sdar_pl.modeling.memory import (
    Int8StandIn,
    Update,
    causal_lm,
    optimizer_bytes,
    prefill_bytes,
    quantised,
    update_bytes,
    weight_bytes,
)
from sdar_pl.module import SDARModule
from sdar_pl.objectives import Estimator
from sdar_pl.policy import DTYPES, ModelSource
from sdar_pl.runtime.messages import add_file_names

#: bytes that drawing a token takes for each row and word of the vocabulary (TransformersEngine._sample: the logits,
#: their scaled copy and log-probs in float32; probabilities, their sums and a flipped copy in float64; two masks)
SAMPLING = 3 * 4 + 3 * 8 + 2


#: parts of a phase that never come together: the largest of them counts
IN_TURN = ("copies of the cache", "prompts", "sampling", "one layer's backward", "logits chunk")


def main(arguments: Sequence[str]) -> int:
    """The subcommand → exit status. Raises ``UserError``."""
    with add_file_names(arguments):
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
    """Bytes are of one rank. ``fixed`` is there always, ``rollout`` and ``update`` come and go."""

    model: str
    parameters: int
    trained: int
    ranks: int
    shards: int
    fixed: dict[str, int] = field(default_factory=dict)
    rollout: dict[str, int] = field(default_factory=dict)
    update: dict[str, int] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def peaks(self) -> dict[str, int]:
        def height(parts: dict[str, int]) -> int:
            together = sum(size for name, size in parts.items() if name not in IN_TURN)
            return together + max((size for name, size in parts.items() if name in IN_TURN), default=0)

        fixed = sum(self.fixed.values())
        return {"rollout": fixed + height(self.rollout), "update": fixed + height(self.update)}

    def as_json(self) -> str:
        """Everything, in bytes."""
        peaks = {**self.peaks, "total": max(self.peaks.values())}
        return json.dumps({**vars(self), "share": self.trained / self.parameters, "peaks": peaks}, indent=2)

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
            for name, size in parts.items():
                turn = "~" if name in IN_TURN else " "
                lines.append(f"  {title:<8}{turn}{name:<24} {pretty(size):>10}  {self.notes.get(name, '')}".rstrip())
                title = ""
        lines.append("  ~ one at a time: the largest counts")
        lines += ["", *(f"peak of the {name:<8} {pretty(size):>23}" for name, size in self.peaks.items())]
        return "\n".join(lines)


def pretty(size: float) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def plan(config: Any) -> Plan:
    """The parsed configuration of a ``fit`` → its Plan. Raises ``UserError`` where the model cannot be built."""
    policy, data, trainer = config.model.policy.init_args, config.data, config.trainer
    base, net = skeleton(config)
    ranks, shards = layout(trainer)
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    base_weights, statistics = base
    adapters = sum(p.nbytes for p in trained) if policy.lora else 0
    gradients = sum(p.nbytes for p in trained)
    parameters = sum(p.numel() for p in net.parameters())
    result = Plan(policy.model, parameters, sum(p.numel() for p in trained), ranks, shards)
    result.fixed = {
        "weights": base_weights // shards + statistics,
        "adapters": adapters // shards,
        "optimizer": optimizer_bytes(_optimizer(config.model.optimizer), trained) // shards,
    }
    result.notes["weights"] = policy.quantization or policy.dtype
    result.notes["optimizer"] = config.model.optimizer.class_path
    if config.model.teacher.class_path.endswith("MovingAverage"):
        result.fixed["teacher's average"] = 4 * result.trained // shards

    window = data.prompter.init_args
    length = window.max_prompt_tokens + data.sampling.max_new_tokens
    precision = _autocast(trainer.precision)
    layer = max(p.numel() for p in causal_lm(net).get_decoder().layers[0].parameters())
    unpacked = layer * DTYPES[policy.dtype].itemsize if policy.quantization else 0
    whole = base_weights + adapters

    if data.engine.class_path.endswith("TransformersEngine"):
        engine = data.engine.init_args
        sessions = ceil(data.tasks_per_iteration / ranks) * data.group_size
        decoded = min(sessions, engine.max_rows)
        keeps = window.history == "conversation" and engine.keep_cache
        prompts = max(1, min(decoded, engine.prefill_tokens // window.max_prompt_tokens))
        height, token = prefill_bytes(net, prompts, window.max_prompt_tokens, precision=precision)
        row = (length + COLUMNS_AT_ONCE) * token
        rows = sessions if keeps else decoded
        result.rollout = {
            "KV cache": rows * row,
            "copies of the cache": int(decoded * row * (1 if keeps else 1 - LEAVE_SHARE)),
            "prompts": height + unpacked,
            "sampling": decoded * causal_lm(net).config.get_text_config().vocab_size * SAMPLING,
        }
        result.notes["KV cache"] = (
            f"{rows} rows × {length + COLUMNS_AT_ONCE:,} tokens × {token:,} B, every row at its longest"
        )
        result.notes["copies of the cache"] = "when rows leave the batch"
        result.notes["prompts"] = f"{prompts} × {window.max_prompt_tokens:,} tokens"
    if shards > 1:
        result.rollout["gathered weights"] = whole

    rows = max(1, data.micro_batch_tokens // length)
    turns = data.play.max_turns if window.history == "conversation" else 1
    responses = rows * min(turns * data.sampling.max_new_tokens, length - 1)
    top_k = _top_k(config.model.objective)
    measure = partial(
        update_bytes, net, rows, length, responses, chunk=policy.logits_chunk, precision=precision, top_k=top_k
    )
    found: Update = measure(checkpointing=policy.gradient_checkpointing)
    other: Update = measure(checkpointing=not policy.gradient_checkpointing)
    result.update = {
        "gradients": gradients // shards,
        "activations": found.saved,
        "one layer's backward": found.layer + unpacked,
        "logits chunk": found.logits,
    }
    word = "without" if policy.gradient_checkpointing else "with"
    result.notes["activations"] = (
        f"{rows} rows × {length:,} tokens; {pretty(other.saved)} {word} gradient checkpointing"
    )
    result.notes["logits chunk"] = f"{min(policy.logits_chunk, responses):,} tokens"
    if shards > 1:
        result.update["gathered layers"] = gathered_bytes(causal_lm(net), whole / parameters)
        result.notes["gathered layers"] = "two decoder layers, embeddings and output layer"
    elif ranks > 1:
        result.update["gradient buckets"] = gradients
    return result


def skeleton(config: Any) -> tuple[tuple[int, int], Any]:
    """(bytes of weights and of their quantisation's statistics, the model with its adapters on the meta device)."""
    from transformers import AutoModelForCausalLM

    policy = config.model.policy.init_args
    found = read_config(ModelSource(policy.model, policy.gguf_file, policy.random_weights))
    low = str(config.trainer.precision) in ("bf16-true", "16-true")  # Lightning converts all of the model
    dtype = torch.bfloat16 if low else DTYPES[policy.dtype]
    with torch.device("meta"):
        try:
            net = AutoModelForCausalLM.from_config(found, dtype=dtype, attn_implementation="sdpa")
        except ValueError as error:
            raise UserError(f"model.policy.model: {policy.model!r} is no causal language model ({error})") from error
        base = weight_bytes(net, policy.quantization)
        for part in quantised(net) if policy.quantization == "int8" else ():
            part.__class__ = Int8StandIn
        if policy.lora:
            net = adapt(net, LoRA(**vars(policy.lora)))
    if low:
        net = net.to(dtype)
    return base, net


def gathered_bytes(net: Any, each: float) -> int:
    """What FSDP2 holds whole while an update runs: a decoder layer, the next one, and the root. ``each``: bytes a
    parameter takes."""
    layers = list(net.get_decoder().layers)
    layer = sum(p.numel() for p in layers[0].parameters())
    return int(each * (sum(p.numel() for p in net.parameters()) - (len(layers) - 2) * layer))


def layout(trainer: Any) -> tuple[int, int]:
    """(ranks, ranks that share one set of weights)."""
    from lightning.pytorch.strategies import ModelParallelStrategy

    from sdar_pl.runtime.strategy import FSDP2Strategy

    devices = trainer.devices
    if isinstance(devices, str) and devices.isdigit():
        devices = int(devices)
    if devices in ("auto", -1, "-1"):
        devices = torch.cuda.device_count() if trainer.accelerator in ("auto", "gpu", "cuda") else 1
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


def _optimizer(config: Any) -> Callable[[list[nn.Parameter]], Any]:
    made: Callable[[list[nn.Parameter]], Any] = partial(_imported(config.class_path), **vars(config.init_args))
    return made


def _top_k(objective: Any) -> int:
    """Of how many of the teacher's likeliest tokens a configured objective wants log-probs."""
    estimator = objective.get("init_args.distillation.init_args.estimator")
    if estimator is None:
        return 0
    made: Estimator = _imported(estimator.class_path)(**dict(estimator.get("init_args") or {}))
    return made.top_k


def _imported(path: str) -> Any:
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def _autocast(precision: Any) -> Callable[[], Any]:
    """The context that Lightning's ``trainer.precision`` puts around a forward."""
    if str(precision) in ("bf16-mixed", "16-mixed", "bf16", "16"):
        return lambda: torch.autocast("cpu", torch.bfloat16)
    return contextlib.nullcontext
