"""``auto``: what ``data.micro_batch_tokens`` and the engine leave open, chosen by ``plan``'s arithmetic and the memory
that the device has free when the run begins.

Left out: what other processes take afterwards (budget.py halves a micro-batch that does not fit), and sharded weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from sdar_pl.engines.base import Engine, RolloutSize
from sdar_pl.errors import UserError
from sdar_pl.modeling.memory import update_bytes
from sdar_pl.modeling.skeleton import Skeleton, build_skeleton
from sdar_pl.objectives import Objective
from sdar_pl.policy import Policy
from sdar_pl.prompts import Prompter
from sdar_pl.sampling.budget import MOST_TOKENS, REMEDY, Budget

#: share of the free memory to use; the rest is for what ``plan`` does not count
SHARE = 0.9


def fit_to_device(
    budget: Budget,
    engine: Engine,
    policy: Policy,
    prompter: Prompter,
    objective: Objective,
    episodes: int,
    response_tokens: int,
    max_turns: int,
) -> None:
    """Let what is ``auto`` choose, once, before the first rollout. Raises ``UserError`` where nothing fits.

    Args:
        budget: of the micro-batches.
        engine: the engine that samples.
        policy: the policy, on its device.
        prompter: limits of the prompts.
        objective: the loss.
        episodes: of an iteration on this rank.
        response_tokens: tokens of the longest response.
        max_turns: turns of an episode.
    """
    if not (budget.auto or engine.auto):
        return
    skeleton, usable = skeleton_of(policy), usable_bytes(policy)
    whole = prompter.history == "conversation"
    if engine.auto:
        on_gpu = policy.device.type == "cuda"
        size = RolloutSize(episodes, prompter.max_prompt_tokens, response_tokens, whole, on_gpu)
        engine.fit(skeleton, size, usable)
    if budget.auto:
        length = prompter.max_prompt_tokens + response_tokens
        responses = min((max_turns if whole else 1) * response_tokens, length - 1)
        budget.tokens = fitting_tokens(policy, skeleton, length, responses, objective.teacher_top_k, usable)
    budget.auto = engine.auto = False


def skeleton_of(policy: Policy) -> Skeleton:
    """The architecture of a built policy without data, as ``plan`` makes it from a configuration."""
    mixed = torch.is_autocast_enabled(policy.device.type)
    precision: Callable[[], Any] = partial(torch.autocast, "cpu", torch.bfloat16) if mixed else contextlib.nullcontext
    return build_skeleton(
        policy.source,
        policy.lora,
        policy.quantization,
        policy.base_dtype,
        policy.attention,
        precision,
        policy.folded_lora,
        policy.lean_layers,
    )


def usable_bytes(policy: Policy) -> int:
    """``SHARE`` of the free memory, less gradients and two moments of the optimizer, which are still to come.

    Raises ``UserError`` where it cannot be known: sharded weights, no CUDA and no /proc/meminfo.
    """
    trained = [weight for _, weight in policy.trained()]
    if any(isinstance(weight, DTensor) for weight in trained):
        raise UserError("data: auto does not know sharded weights; give numbers ('python -m sdar_pl plan' helps)")
    return int(SHARE * free_bytes(policy.device)) - 3 * sum(weight.nbytes for weight in trained)


def free_bytes(device: torch.device) -> int:
    """Memory that a device can still hand out; of a CPU, what the system calls available (Linux)."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError as error:
        raise UserError("data: auto needs to know how much memory is free; give numbers") from error
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def fitting_tokens(policy: Policy, skeleton: Skeleton, length: int, responses: int, top_k: int, usable: int) -> int:
    """Tokens of the largest micro-batch that fits, at most ``MOST_TOKENS``.

    Rows of a micro-batch are alike, so that memory is linear in their number: two are measured.

    Args:
        policy: the policy, for its options.
        skeleton: the policy's.
        length: tokens of the longest row.
        responses: response tokens of such a row.
        top_k: the teacher's tokens at each response token.
        usable: bytes.

    Raises ``UserError`` if a single row does not fit.
    """

    def peak(rows: int) -> int:
        return update_bytes(
            skeleton.net,
            rows,
            length,
            rows * responses,
            chunk=policy.logits_chunk,
            checkpointing=policy.gradient_checkpointing,
            precision=skeleton.precision,
            top_k=top_k,
        ).peak

    with torch.enable_grad():  # a rollout has none
        one, two = peak(1), peak(2)
    rows = (usable - skeleton.unpacked - one) // max(1, two - one) + 1
    if rows < 1:
        raise UserError(f"data.micro_batch_tokens: auto; one row of {length:,} tokens does not fit; {REMEDY}")
    return max(length, min(MOST_TOKENS, rows * length))
