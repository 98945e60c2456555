"""What a card reaches and what a policy asks of it at least, for bench_gpu.py."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch


def ceilings(device: torch.device) -> dict[str, float]:
    """What this device reaches on one large bf16 product (FLOP/s) and on one large copy (bytes read and written/s)."""
    size = 8192 if device.type == "cuda" else 512
    one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    big = torch.randn(8 * size * size, device=device, dtype=torch.bfloat16)
    copy = torch.empty_like(big)

    def seconds(work: Callable[[], Any]) -> float:
        runs = []
        for _ in range(8):
            began = time.perf_counter()
            for _ in range(10):
                work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            runs.append((time.perf_counter() - began) / 10)
        return statistics.median(runs[2:])

    return {
        "flop_per_s": 2 * size**3 / seconds(partial(torch.mm, one, other)),
        "bytes_per_s": 2 * big.nbytes / seconds(partial(copy.copy_, big)),
    }


def sizes(policy: Any) -> tuple[float, int, int]:
    """(FLOP of an update a token, bytes of the weights that a decoding step reads, bytes of a token's cache).

    An update with adapters takes the forward products and those of the inputs' gradients: 4 FLOP a weight of the
    linear layers. What gradient checkpointing computes again, attention, adapters and the output layer are left out.
    """
    config = policy.causal_lm.config
    heads = config.hidden_size // config.num_attention_heads * config.num_key_value_heads
    layer = config.hidden_size * (2 * config.hidden_size + 2 * heads + 3 * config.intermediate_size)
    table = policy.causal_lm.get_input_embeddings().weight
    tied = policy.causal_lm.get_output_embeddings().weight.data_ptr() == table.data_ptr()
    stored = sum(parameter.nbytes for parameter in policy.parameters()) - (0 if tied else table.nbytes)
    return 4.0 * layer * config.num_hidden_layers, stored, 4 * heads * config.num_hidden_layers
