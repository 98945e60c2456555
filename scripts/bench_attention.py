"""Attention alone: a group as a prefix tree, by segments, FlexAttention and padded rows; and an observation that
follows a cached conversation, with and without a copy of the cache for every query head.

The same values are checked before anything is timed. Medians of interleaved rounds, CPU seconds of one thread, or
seconds on the card with --device cuda. Writes benchmarks/attention.json and prints the tables.

Run: python scripts/bench_attention.py [--rounds 15] [--device cpu]
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from _common import in_words, machine, run_script
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sdar_pl.modeling.prefix_tree import PrefixTree, attend
from sdar_pl.runtime.messages import PlainParser

Work = Callable[[], Tensor]
#: (query heads, key heads, columns of a head)
SHAPES = {"11 M parameters": (6, 2, 64), "SmolLM2-135M": (9, 3, 64), "Qwen2.5-3B": (16, 2, 128)}
#: rows, their tokens, and those that they share
GROUPS = {"six turns": (8, 540, 256), "one turn": (8, 320, 256)}
#: rows, tokens of the observation, tokens before it
OBSERVATION = (16, 40, 1000)


def group(shape: tuple[int, int, int], size: tuple[int, int, int], device: str, trained: bool) -> dict[str, Work]:
    """Attention of one layer over a group's rows, three ways → outputs of the packed tokens [1, H, N, D].

    ``trained``: with the gradients of queries, keys and values.
    """
    heads, shared, columns = shape
    count, length, prefix = size
    rng = random.Random(0)
    start = [rng.randrange(5, 10**6) for _ in range(prefix)]
    tree = PrefixTree.of([[*start, *(rng.randrange(5, 10**6) for _ in range(length - prefix))] for _ in range(count)])
    total = len(tree.tokens)
    query, key, value = (
        torch.randn(1, n, total, columns, device=device, requires_grad=trained) for n in (heads, shared, shared)
    )
    owner = torch.tensor([n for n, size in enumerate(tree.lengths) for _ in range(size)], device=device)
    above = torch.zeros(len(tree.lengths), len(tree.lengths), dtype=torch.bool, device=device)
    for number, segment in enumerate(tree.segments):
        above[number, [*segment.above, number]] = True

    def sees(_batch: Tensor, _head: Tensor, reader: Tensor, read: Tensor) -> Tensor:
        return (reader >= read) & above[owner[reader], owner[read]]

    mask = create_block_mask(sees, None, None, total, total, device=device)
    torch.compiler.reset()  # for these shapes alone
    flex: Any = torch.compile(flex_attention)
    places = torch.tensor(tree.places, device=device)
    module = SimpleNamespace(num_key_value_groups=heads // shared, is_causal=True)
    back = torch.zeros(total, dtype=torch.long, device=device)
    back[places.flatten()] = torch.arange(places.numel(), device=device)

    def padded() -> Tensor:
        rows = [x[0][:, places].transpose(0, 1) for x in (query, key, value)]
        found, _ = sdpa_attention_forward(module, *rows, None)  # [rows, L, H, D]
        return found.flatten(0, 1)[back].transpose(0, 1)[None]

    ways: dict[str, Work] = {
        "segments": lambda: attend(module, query, key, value, None, tree=tree)[0].transpose(1, 2),
        "FlexAttention": lambda: flex(query, key, value, block_mask=mask, enable_gqa=True),
        "padded rows": padded,
    }
    return {name: backward(work) for name, work in ways.items()} if trained else ways


def observation(shape: tuple[int, int, int], device: str) -> dict[str, Work]:
    """An observation's tokens attend to the conversation before: without copies, and as transformers does it."""
    heads, shared, columns = shape
    rows, fresh, before = OBSERVATION
    query = torch.randn(rows, heads, fresh, columns, device=device)
    key, value = (torch.randn(rows, shared, before + fresh, columns, device=device) for _ in range(2))
    mask = torch.ones(rows, 1, fresh, before + fresh, dtype=torch.bool, device=device).tril(before)
    module = SimpleNamespace(num_key_value_groups=heads // shared)
    return {
        "cache as it is": lambda: attend(module, query, key, value, mask)[0],
        "a copy for each head": lambda: sdpa_attention_forward(module, query, key, value, mask)[0],
    }


def backward(work: Work) -> Work:
    def both() -> Tensor:
        result = work()
        result.sum().backward()
        return result

    return both


def medians(ways: dict[str, Work], rounds: int, device: str) -> dict[str, float | None]:
    """Milliseconds of each way, the first of which has the values to agree with; None: torch refuses."""
    ways, times = dict(ways), dict[str, list[float]]()
    wanted: Tensor | None = None
    for name, work in list(ways.items()):
        times[name] = []
        try:
            value = work().detach()
        except NotImplementedError:
            del ways[name]
            continue
        wanted = value if wanted is None else wanted
        assert torch.allclose(value, wanted, atol=1e-4), f"{name}: other values"
    for _ in range(rounds):
        for name, work in ways.items():
            times[name].append(seconds(work, device))
    return {name: 1000 * statistics.median(found) if found else None for name, found in times.items()}


def seconds(work: Work, device: str) -> float:
    if device == "cpu":
        began = time.process_time()
        work()
        return time.process_time() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def markdown(rows: list[dict[str, Any]]) -> str:
    """A line for each case: milliseconds, and how often the first way's."""
    lines = ["| case | shape | pass | ms (times the first) |", "|---|---|---|---|"]
    for row in rows:
        first = next(iter(row["ms"].values()))
        cells = [f"{name} –" if ms is None else f"{name} {ms:.1f} ({ms / first:.2f})" for name, ms in row["ms"].items()]
        lines.append(f"| {row['case']} | {row['shape']} | {row['pass']} | {', '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = PlainParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--shape", nargs="+", choices=[*SHAPES], default=[*SHAPES])
    parser.add_argument("--out", type=Path, default=Path("benchmarks"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    for shape in args.shape:
        for (case, size), trained in itertools.product(GROUPS.items(), (False, True)):
            name = "forward and backward" if trained else "forward"
            times = medians(group(SHAPES[shape], size, args.device, trained), args.rounds, args.device)
            rows.append({"case": case, "shape": shape, "pass": name, "ms": times})
        with torch.no_grad():
            times = medians(observation(SHAPES[shape], args.device), args.rounds, args.device)
        rows.append({"case": "an observation", "shape": shape, "pass": "forward", "ms": times})
    found = machine(threads=1)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "attention.json").write_text(json.dumps({"machine": found, "rows": rows}, indent=1) + "\n")
    print(markdown(rows))
    print(in_words(found))


if __name__ == "__main__":
    run_script(main)
