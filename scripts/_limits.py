"""What an iteration of bench_peers.py takes at least: tokens, matrix products and memory of each phase.

Counted for ``ours_fast``: a token that rows share is read once, and the adapters are folded into the weights. A phase's
lower bound is the time of its matrix products, at the rate of one large product and as sized in the phase: measured
alone, the smallest of several rounds. Left out of the bound: norms, activations, rotary embeddings, sampling, the
optimizer, Python.

Arguments, as a process of its own: case, groups, shape → JSON.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from _peers import CASES, GROUP, PHASES, Case, configuration

RANK = 16
#: tokens whose logits exist at one time (``model.policy.logits_chunk``)
CHUNK = 512
ROUNDS = 5


class Product(NamedTuple):
    """[rows, inner] times [inner, columns], ``times`` times in an iteration."""

    rows: int
    inner: int
    columns: int
    times: int

    @property
    def gflop(self) -> float:
        return 2 * self.rows * self.inner * self.columns * self.times / 1e9


class Work(NamedTuple):
    """A phase: tokens that pass through the layers, the products of its linear layers, GFLOP of its attention."""

    tokens: int
    products: list[Product]
    attention: float

    @property
    def gflop(self) -> float:
        return sum(product.gflop for product in self.products) + self.attention


def matrices(config: Any) -> list[tuple[int, int]]:
    """(inputs, outputs) of the linear layers of a decoder layer."""
    hidden, wide = config.hidden_size, config.intermediate_size
    narrow = hidden * config.num_key_value_heads // config.num_attention_heads
    square, into_heads, up, down = (hidden, hidden), (hidden, narrow), (hidden, wide), (wide, hidden)
    return [square, into_heads, into_heads, square, up, up, down]


def distinct(case: Case) -> int:
    """Tokens of a group, the shared prompt counted once."""
    return case.prompt + GROUP * (case.tokens - case.prompt)


def read_pairs(case: Case) -> int:
    """(query, key) pairs of a group's attention: a token attends to itself and to all before it in its row."""

    def up_to(n: int) -> int:
        return n * (n + 1) // 2

    return up_to(case.prompt) + GROUP * (up_to(case.tokens) - up_to(case.prompt))


def work(case: Case, groups: int, config: Any, budget: int) -> dict[str, Work]:
    """Phase → what it computes."""
    layers, sizes = config.num_hidden_layers, matrices(config)
    attention = 4 * config.hidden_size * layers * groups * read_pairs(case) / 1e9  # q kᵀ and p v
    rows, replies = groups * GROUP, groups * GROUP * case.turns * case.reply

    def through(tokens: int, times: int) -> list[Product]:
        return [Product(tokens, inner, columns, times * layers) for inner, columns in sizes]

    def head(tokens: int, times: int) -> Product:
        return Product(tokens, config.hidden_size, config.vocab_size, times)

    # Rollout: each prompt once; each observation with the last token of the reply before it; then token by token.
    later, fed = case.observation + 1, case.reply - 1
    rollout = through(groups * case.prompt, 1) + through(rows, case.turns * fed) + [head(rows, case.turns * case.reply)]
    rollout += through(rows * later, case.turns - 1) if case.turns > 1 else []
    read = groups * case.prompt + rows * (later * (case.turns - 1) + fed * case.turns)
    # Scoring: the reference view alone. Update: forward; the gradient of its inputs, not of the frozen weights.
    together = max(1, min(groups, budget // distinct(case)))
    batch, batches = together * distinct(case), -(-groups // together)
    chunks = -(-replies // CHUNK)
    score = [*through(batch, batches), head(CHUNK, chunks)]
    update = [*through(batch, 2 * batches), head(CHUNK, 3 * chunks)]  # the logits are computed anew in backward
    for inner, columns in sizes:
        once = layers * batches
        folds = Product(columns, RANK, inner, 2 * once)  # W + s·B A, forward and backward
        outer = [Product(RANK, batch, inner, once), Product(columns, batch, RANK, once)]  # dA, dB
        into = [Product(batch, columns, RANK, once), Product(batch, inner, RANK, once)]  # dy B, x Aᵀ
        update += [folds, *outer, *into]
    return {
        "rollout": Work(read, rollout, attention),
        "score": Work(batch * batches, score, attention),
        "update": Work(batch * batches, update, 3.5 * attention),  # backward: five products, one of them anew
    }


def seconds(run: Callable[[], Any], times: int = 1) -> float:
    """CPU seconds of one call, the smallest of several rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(times):
            run()
        best = min(best, (time.process_time() - began) / times)
    return best


def timed(product: Product, known: dict[tuple[int, int, int], float]) -> float:
    """CPU seconds of a product in an iteration, alone."""
    import torch

    shape = product[:3]
    if shape not in known:
        left, right = torch.randn(product.rows, product.inner), torch.randn(product.columns, product.inner)
        torch.nn.functional.linear(left, right)
        gflop = product._replace(times=1).gflop
        known[shape] = seconds(lambda: torch.nn.functional.linear(left, right), times=max(1, round(2 / gflop)))
    return known[shape] * product.times


def memory(case: Case, groups: int, shape: str, budget: int) -> dict[str, float]:
    """MiB: the process with its packages, the weights, and what one update of a micro-batch saves for backward, by the
    arithmetic of ``plan``."""
    import _peer_ours  # noqa: F401 - its packages
    import torch
    from _common import model_folder

    from sdar_pl.modeling.memory import update_bytes
    from sdar_pl.modeling.skeleton import build_skeleton
    from sdar_pl.modeling.sources import ModelSource
    from sdar_pl.policy import LoRA

    status = Path("/proc/self/status").read_text().splitlines()
    resident = next(int(line.split()[1]) / 2**10 for line in status if line.startswith("VmRSS"))
    with tempfile.TemporaryDirectory() as folder:
        source = ModelSource(model_folder(Path(folder) / "model", configuration(shape)), None, True)
        skeleton = build_skeleton(source, LoRA(), None, torch.float32, "prefix_tree", folded_lora=True)
    tokens = min(budget, groups * distinct(case))
    replies = tokens * GROUP * case.turns * case.reply // distinct(case)
    options: dict[str, Any] = {"chunk": CHUNK, "precision": contextlib.nullcontext}
    plain, again = (update_bytes(skeleton.net, 1, tokens, replies, checkpointing=on, **options) for on in (False, True))
    found = {"packages": resident, "weights": skeleton.weights / 2**20, "saved": plain.saved / 2**20}
    return {**found, "update": plain.peak / 2**20, "checkpointed": again.peak / 2**20, "tokens": tokens}


def measure(case: Case, groups: int, shape: str, budget: int) -> dict[str, Any]:
    """Tokens, GFLOP and the seconds of the products, by phase; the rate of a plain product in GFLOP/s."""
    import torch

    torch.set_num_threads(1)
    square = torch.randn(1024, 1024)
    rate = 2 * 1024**3 / seconds(lambda: square @ square, times=4) / 1e9
    known: dict[tuple[int, int, int], float] = {}
    phases = {}
    for name, one in work(case, groups, configuration(shape), budget).items():
        alone = sum(timed(product, known) for product in one.products) + one.attention / rate
        phases[name] = {"tokens": one.tokens, "gflop": one.gflop, "at_rate": one.gflop / rate, "alone": alone}
    return {"rate": rate, "phases": phases, "memory": memory(case, groups, shape, budget)}


def lines(report: dict[str, Any]) -> list[str]:
    """The lines of peers.md about the limits in ``report``, beside its measured seconds."""
    if not report["limits"]:
        return []
    found = [
        "",
        "## What an iteration takes at least",
        "",
        "Counted for `ours_fast`: each distinct token read once, the adapters folded into the weights, attention at "
        "the plain rate. Plain rate: one product of 1,024 × 1,024 matrices on this core. As sized: each product of a "
        "phase alone, the fastest of five rounds. What is left are norms, activations, rotary embeddings, attention's "
        "own overhead, copies, sampling, the optimizer and Python; benchmarks/profile.md has their shares.",
    ]
    for case, one in report["limits"].items():
        measured, rivals = report["cases"][case]["ours_fast"], report["cases"][case].get("trl_best")
        found += [
            "",
            f"### {case}, plain rate {one['rate']:.0f} GFLOP/s",
            "",
            "| | tokens read | GFLOP | s at the plain rate | s as sized | measured | what is left |",
            "|---|--:|--:|--:|--:|--:|--:|",
        ]
        for phase in (*PHASES, "total"):
            parts = [one["phases"][phase]] if phase != "total" else list(one["phases"].values())
            tokens, gflop, rated, alone = (sum(p[k] for p in parts) for k in ("tokens", "gflop", "at_rate", "alone"))
            rest = f"{measured[phase]:.1f} | {measured[phase] - alone:.1f}"
            found.append(f"| {phase} | {tokens:,} | {gflop:.0f} | {rated:.1f} | {alone:.1f} | {rest} |")
        if rivals:
            goal = {"six_turns": 4, "one_turn": 2}[case]
            alone = sum(phase["alone"] for phase in one["phases"].values())
            found += [
                "",
                f"{goal} × is {rivals['total'] / goal:.1f} s. Products alone would give {rivals['total'] / alone:.1f} "
                f"×; the goal leaves {rivals['total'] / goal - alone:.1f} s for what is left, which takes "
                f"{measured['total'] - alone:.1f} s.",
            ]
        parts = one["memory"]
        counted = parts["packages"] + 2 * parts["weights"] + parts["update"]
        found += [
            "",
            f"Memory, MiB: {parts['packages']:.0f} for Python and its packages, {2 * parts['weights']:.0f} for the "
            f"weights and the folded ones, {parts['update']:.0f} for an update of {parts['tokens']:,.0f} tokens by the "
            f"arithmetic of `plan` ({parts['saved']:.0f} saved for backward; {parts['checkpointed']:.0f} in all with "
            f"gradient checkpointing): {counted:.0f} of the {measured['peak'] * 1024:.0f} measured.",
        ]
    return found


if __name__ == "__main__":
    named = CASES[sys.argv[1]]
    print(json.dumps(measure(named, int(sys.argv[2]), sys.argv[3], named.budget)))
