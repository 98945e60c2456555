"""How fast are rollouts in process and on vLLM, on a CPU: the same weights, prompts, observations and lengths for both.

Groups of 8 episodes of the household games, six turns of scripted observations; each engine continues its own responses
of exactly ``LENGTH`` tokens. Tokens a second by the clock, and a second of processor time (of this process and, for
vLLM, of the server's processes), which other work on the machine disturbs less. Then the seconds of a sync and of the
canary in it, and what a request of one token costs with 64 sessions in flight. Runs are interleaved; writes
benchmarks/engines.json and benchmarks/engines.md. No weights are downloaded: those of ``135m`` are random.

Run: python scripts/bench_engines.py --vllm /env/bin/python [--shape tiny 135m] [--runs 3]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from _common import in_words, machine, model_folder, run_script, vllm_on_cpu
from bench_rollout import TURNS, conversations

from sdar_pl.engines import Engine, Request, Sampling, TransformersEngine, VLLMEngine
from sdar_pl.engines.vllm.canary import Canary
from sdar_pl.engines.vllm.client import Client
from sdar_pl.engines.vllm.launch import OwnServer, command_line
from sdar_pl.policy import LoRA, Policy
from sdar_pl.runtime.messages import PlainParser

SIZE, LENGTH, SESSIONS = 8, 16, 64
#: the canary's tolerance for float32
TOLERANCE = 2e-3
#: prompts by turn, one list a session
Prompts = Sequence[Sequence[list[int]]]


def base_of(shape: str, folder: Path) -> str:
    """The packaged policy, or a model of SmolLM2-135M's shape with random weights and the packaged tokenizer."""
    if shape == "tiny":
        return "tiny-household"
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    path = model_folder(folder / shape, config)
    LlamaForCausalLM(config).save_pretrained(path)
    return path


class Clock:
    """Seconds by the clock and of processor time, of this process and the server's."""

    def __init__(self, server: OwnServer) -> None:
        self.processes = psutil.Process(server.keeper.pid).children(recursive=True)
        self.restart()

    def restart(self) -> None:
        self.began, self.own, self.server = time.perf_counter(), time.process_time(), self._server()

    def read(self) -> tuple[float, float, float]:
        """Seconds since ``restart``: by the clock, this process's, the server's."""
        return time.perf_counter() - self.began, time.process_time() - self.own, self._server() - self.server

    def _server(self) -> float:
        times = [process.cpu_times() for process in self.processes]
        return float(sum(one.user + one.system for one in times))


def rates(engine: Engine, policy: Policy, prompts: Prompts, clock: Clock, seed: int) -> tuple[float, float]:
    """Generated tokens a second by the clock, and of processor time."""
    engine.sync(policy)
    contexts: list[list[int]] = [[] for _ in prompts]
    streams = [np.random.default_rng([seed, n]) for n in range(len(prompts))]
    clock.restart()
    for turn in range(TURNS):
        for context, conversation in zip(contexts, prompts, strict=True):
            context.extend(conversation[turn])
        requests = [Request(n, contexts[n], streams[n]) for n in range(len(prompts))]
        for context, completion in zip(
            contexts, engine.generate(requests, Sampling(max_new_tokens=LENGTH)), strict=True
        ):
            context.extend(completion.tokens)
    seconds, own, server = clock.read()
    assert engine.generated == TURNS * LENGTH * len(prompts), "every response has its full length"
    engine.release(range(len(prompts)))
    return engine.generated / seconds, engine.generated / (own + (server if engine.off_policy else 0))


def sync_seconds(engine: VLLMEngine, policy: Policy, url: str) -> tuple[float, float]:
    """Seconds of a sync with new adapters, and of the canary alone."""
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(1e-4 * torch.randn_like(parameter))
    began = time.perf_counter()
    engine.sync(policy)
    synced = time.perf_counter() - began
    client = Client(url, 600)
    adapter = str(client.models()[-1]["id"])
    began = time.perf_counter()
    Canary(policy, adapter, TOLERANCE).check(client)
    return synced, time.perf_counter() - began


def request_seconds(engine: VLLMEngine, prompts: Prompts, clock: Clock) -> tuple[float, float]:
    """Seconds by the clock and of this process's processor time for a request of one token, 64 sessions in flight."""
    requests = [Request(n, prompts[n % len(prompts)][0], np.random.default_rng(n), keep=False) for n in range(SESSIONS)]
    clock.restart()
    for _ in range(4):
        engine.generate(requests, Sampling(max_new_tokens=1))
    seconds, own, _ = clock.read()
    return seconds / (4 * SESSIONS), own / (4 * SESSIONS)


def measured(shape: str, groups: int, args: Any) -> dict[str, Any]:
    command, more = vllm_on_cpu(args.vllm)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        policy = Policy(base_of(shape, folder), LoRA(r=16, alpha=32))
        policy.build()
        prompts = [conversation.prompts for conversation in conversations(policy, groups, SIZE)]
        policy.tokenizer.eos_token = policy.causal_lm.generation_config.eos_token_id = (
            None  # no response ends by itself
        )
        server = OwnServer(command_line(policy, command, more, 2048), folder / "vllm.log")
        try:
            server.wait(900)
            return on_server(shape, policy, prompts, server, args.runs)
        finally:
            server.end()


def on_server(shape: str, policy: Policy, prompts: Prompts, server: OwnServer, runs: int) -> dict[str, Any]:
    clock, served = Clock(server), VLLMEngine([server.url])
    engines: dict[str, Engine] = {"TransformersEngine": TransformersEngine(), "VLLMEngine": served}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    for number in range(runs + 1):
        for name, engine in engines.items():
            one = rates(engine, policy, prompts, clock, number)
            print(f"{shape} {name}: {one[0]:.0f} tokens/s, {one[1]:.0f} a second of processor time", file=sys.stderr)
            if number:  # the first round warms up
                found[name].append(one)
    synced = [sync_seconds(served, policy, server.url) for _ in range(max(3, runs))]
    asked = [request_seconds(served, prompts, clock) for _ in range(max(3, runs))]
    median: Callable[[Sequence[float]], float] = lambda values: round(statistics.median(values), 5)  # noqa: E731
    return {
        "shape": shape,
        "parameters": sum(parameter.numel() for parameter in policy.net.parameters()),
        "sessions": len(prompts),
        "longest": max(sum(map(len, one)) for one in prompts) + TURNS * LENGTH,
        "tokens_per_s": {name: [round(clocked) for clocked, _ in one] for name, one in found.items()},
        "tokens_per_cpu_s": {name: [round(cpu) for _, cpu in one] for name, one in found.items()},
        "sync_s": median([whole for whole, _ in synced]),
        "canary_s": median([canary for _, canary in synced]),
        "request_ms": 1000 * median([clocked for clocked, _ in asked]),
        "client_cpu_ms": 1000 * median([cpu for _, cpu in asked]),
        "vllm": Client(server.url, 60).version(),
        "load_average": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = PlainParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vllm", required=True, help="Python of an environment that has vLLM's CPU build")
    parser.add_argument("--shape", nargs="+", default=["tiny", "135m"], choices=["tiny", "135m"])
    parser.add_argument("--groups", type=int, nargs="+", default=[8, 2], help="groups of episodes for each shape")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    shapes = [measured(shape, groups, args) for shape, groups in zip(args.shape, args.groups, strict=False)]
    report = {"shapes": shapes, "machine": machine(1)}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "engines.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.out / "engines.md").write_text(markdown(report))
    print(markdown(report))


def markdown(report: dict[str, Any]) -> str:
    first = report["shapes"][0]
    lines = [
        "# Engines: in process and on vLLM, on a CPU",
        "",
        f"Household episodes in groups of {SIZE}, {TURNS} turns, responses of {LENGTH} tokens; a conversation has at "
        f"most {first['longest']} tokens. Float32, LoRA of rank 16, one thread a process, vLLM {first['vllm']}. "
        f"Medians, lowest and highest of {len(first['tokens_per_s']['VLLMEngine'])} runs in turn. Processor time "
        "counts the trainer and the server's processes. A load average above 2 is that of other jobs beside these.",
        "",
        "| parameters | episodes | engine | generated tokens/s | tokens a second of processor time | load average |",
        "|--:|--:|---|--:|--:|--:|",
    ]
    for one in report["shapes"]:
        for name, clocked in one["tokens_per_s"].items():
            cells = [
                f"{statistics.median(v):,.0f} ({min(v)} – {max(v)})" for v in (clocked, one["tokens_per_cpu_s"][name])
            ]
            lines.append(
                f"| {one['parameters']:,} | {one['sessions']} | {name} | {cells[0]} | {cells[1]} | "
                f"{one['load_average']} |"
            )
    lines += [
        "",
        f"VLLMEngine beside this, medians; a request is one of one token with {SESSIONS} sessions in flight:",
        "",
        "| parameters | sync, s | of it canary, s | request, ms | of it processor time of the trainer, ms |",
        "|--:|--:|--:|--:|--:|",
    ]
    for one in report["shapes"]:
        lines.append(
            f"| {one['parameters']:,} | {one['sync_s']:.2f} | {one['canary_s']:.2f} | {one['request_ms']:.1f} | "
            f"{one['client_cpu_ms']:.1f} |"
        )
    lines += ["", f"Command: `python scripts/bench_engines.py --vllm /env/bin/python`. {in_words(report['machine'])}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_script(main)
