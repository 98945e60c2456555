"""How fast are rollouts in process and on vLLM, on a CPU: the same policy, tasks and limits for both engines.

Each plays an iteration of the quickstart's household games (groups of 8, six turns) and samples its own responses.
Then: the seconds of a sync and of the canary in it, and what a request of one token costs with 64 sessions in flight
(this process's processor time is the client's share). ``--seeds`` adds whole ``fit`` runs of the quickstart on both.
Runs are interleaved; writes benchmarks/engines.json and benchmarks/engines.md.

Run: python scripts/bench_engines.py --vllm /env/bin/python [--model tiny-household] [--runs 5] [--seeds 0 1 2]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import in_words, machine, run_script, vllm_on_cpu

from sdar_pl.engines import Engine, Request, Sampling, TransformersEngine, VLLMEngine
from sdar_pl.engines.vllm.canary import Canary
from sdar_pl.engines.vllm.client import Client
from sdar_pl.engines.vllm.launch import OwnServer, command_line
from sdar_pl.environments.household import Household
from sdar_pl.policy import LoRA, Policy
from sdar_pl.prompts import Prompter
from sdar_pl.rollout import PlayRules, play
from sdar_pl.runtime.messages import PlainParser
from sdar_pl.runtime.metrics_csv import read_rows
from sdar_pl.sampling.slots import EpisodeSlot

ROOT = Path(__file__).resolve().parents[1]
#: context of the server: the quickstart's longest prompt and response
LENGTH = 1600
SIZE, TURNS, SESSIONS = 8, 6, 64


def rate(engine: Engine, policy: Policy, groups: int, seed: int) -> float:
    """Tokens a second that an engine generates in one iteration."""
    world, prompter = Household(size="tiny"), Prompter(max_prompt_tokens=1024)
    prompter.bind(policy.tokenizer)
    tasks = world.tasks("train")
    slots = [EpisodeSlot(tasks[n // SIZE], n // SIZE, n % SIZE, n, (seed, n)) for n in range(groups * SIZE)]
    engine.sync(policy)
    began = time.perf_counter()
    play(world, slots, engine, prompter, Sampling(max_new_tokens=24), PlayRules(max_turns=TURNS))
    return engine.generated / (time.perf_counter() - began)


def change(policy: Policy) -> None:
    """New adapters, as after an update."""
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(1e-4 * torch.randn_like(parameter))


def sync_seconds(engine: VLLMEngine, policy: Policy, url: str) -> tuple[float, float]:
    """Seconds of a sync, and of the canary alone."""
    change(policy)
    began = time.perf_counter()
    engine.sync(policy)
    synced = time.perf_counter() - began
    client = Client(url, 600)
    adapter = client.models()[-1]["id"]
    began = time.perf_counter()
    Canary(policy, adapter, 2e-3).check(client)
    return synced, time.perf_counter() - began


def request_seconds(engine: VLLMEngine, policy: Policy) -> tuple[float, float]:
    """Seconds by the clock and of this process's processor time for a request of one token, 64 in flight."""
    text = policy.tokenizer.encode("You are in a room. " * 8)
    requests = [Request(n, text, np.random.default_rng(n), keep=False) for n in range(SESSIONS)]
    began = time.perf_counter(), time.process_time()
    for _ in range(4):
        engine.generate(requests, Sampling(max_new_tokens=1))
    count = 4 * len(requests)
    return (time.perf_counter() - began[0]) / count, (time.process_time() - began[1]) / count


def fit(folder: Path, name: str, seed: int, engine: Sequence[str], epochs: int) -> dict[str, float]:
    """A whole run of the quickstart → success of the panel before and after, and seconds."""
    words = ["-m", "sdar_pl", "fit", "--config", "configs/quickstart.yaml", "--seed_everything", str(seed)]
    words += ["--trainer.max_epochs", str(epochs), "--trainer.default_root_dir", str(folder), "--run", name, *engine]
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    rows = read_rows(folder / name / "metrics.csv")
    success = {step: float(row["val/success"]) for step, row in rows.items() if "val/success" in row}
    mismatch = [float(row["engine/logprob_mismatch"]) for row in rows.values() if "engine/logprob_mismatch" in row]
    return {
        "seed": seed,
        "before": success[min(success)],
        "after": success[max(success)],
        "mismatch": max(mismatch),
        "seconds": round(time.perf_counter() - began),
    }


def main() -> None:
    parser = PlainParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vllm", required=True, help="Python of an environment that has vLLM's CPU build")
    parser.add_argument("--model", default="tiny-household", help="the policy's base: a folder, or the packaged one")
    parser.add_argument("--groups", type=int, default=12)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="*", default=[], help="whole runs of the quickstart with these")
    parser.add_argument("--epochs", type=int, default=8, help="iterations of a whole run")
    parser.add_argument("--out", type=Path, default=Path("benchmarks"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    policy = Policy(args.model, LoRA(r=16, alpha=32))
    policy.build()
    command, more = vllm_on_cpu(args.vllm)
    with tempfile.TemporaryDirectory() as folder:
        server = OwnServer(command_line(policy, command, more, LENGTH), Path(folder) / "vllm.log")
        try:
            server.wait(900)
            report = measured(policy, server.url, args)
            report["fits"] = fits(Path(folder), server.url, args)
        finally:
            server.end()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "engines.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.out / "engines.md").write_text(markdown(report))
    print(markdown(report))


def measured(policy: Policy, url: str, args: Any) -> dict[str, Any]:
    engines: dict[str, Engine] = {"TransformersEngine": TransformersEngine(), "VLLMEngine": VLLMEngine([url])}
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(args.runs + 1):
        for name, engine in engines.items():
            found = rate(engine, policy, args.groups, number)
            if number:  # the first round warms up
                rates[name].append(found)
                print(f"{name}: {found:.0f} tokens/s", file=sys.stderr)
    served = engines["VLLMEngine"]
    assert isinstance(served, VLLMEngine)
    synced = [sync_seconds(served, policy, url) for _ in range(args.runs)]
    asked = [request_seconds(served, policy) for _ in range(args.runs)]
    median: Callable[[list[float]], float] = lambda values: round(statistics.median(values), 5)  # noqa: E731
    return {
        "model": args.model,
        "parameters": sum(parameter.numel() for parameter in policy.net.parameters()),
        "groups": args.groups,
        "tokens_per_s": {name: [round(one) for one in found] for name, found in rates.items()},
        "sync_s": median([one for one, _ in synced]),
        "canary_s": median([one for _, one in synced]),
        "request_ms": 1000 * median([one for one, _ in asked]),
        "client_cpu_ms": 1000 * median([one for _, one in asked]),
        "vllm": Client(url, 60).version(),
        "load_average": round(os.getloadavg()[0], 1),
        "machine": machine(1),
    }


def fits(folder: Path, url: str, args: Any) -> dict[str, list[dict[str, float]]]:
    """Whole runs by the engine's name."""
    served = ["--data.engine", "sdar_pl.engines.VLLMEngine", "--data.engine.init_args.servers", json.dumps([url])]
    found: dict[str, list[dict[str, float]]] = {"TransformersEngine": [], "VLLMEngine": []}
    for seed in args.seeds:
        for name, engine in (("TransformersEngine", []), ("VLLMEngine", served)):
            found[name].append(fit(folder, f"{name}-{seed}", seed, engine, args.epochs))
            print(f"{name}: {found[name][-1]}", file=sys.stderr)
    return found


def markdown(report: dict[str, Any]) -> str:
    lines = [
        "# Engines: in process and on vLLM, on a CPU",
        "",
        f"`{report['model']}` ({report['parameters']:,} parameters, float32) plays {report['groups']} groups of {SIZE} "
        f"household games, {TURNS} turns each, 24 tokens a response at most. One thread each, load average "
        f"{report['load_average']}; vLLM {report['vllm']}.",
        "",
        "| engine | generated tokens/s, median | lowest – highest |",
        "|---|--:|--:|",
    ]
    for name, found in report["tokens_per_s"].items():
        lines.append(f"| {name} | {statistics.median(found):.0f} | {min(found)} – {max(found)} |")
    lines += [
        "",
        f"VLLMEngine: a sync takes {report['sync_s']:.2f} s, of it the canary {report['canary_s']:.2f} s. A request of "
        f"one token with {SESSIONS} sessions in flight takes {report['request_ms']:.1f} ms, of it "
        f"{report['client_cpu_ms']:.1f} ms of the trainer's processor time.",
    ]
    if any(report["fits"].values()):
        lines += [
            "",
            "Whole runs of the quickstart, success on the panel of validation:",
            "",
            "| engine | seed | before | after | largest `engine/logprob_mismatch` | seconds |",
            "|---|--:|--:|--:|--:|--:|",
        ]
        for name, found in report["fits"].items():
            for one in found:
                lines.append(
                    f"| {name} | {one['seed']} | {one['before']:.3f} | {one['after']:.3f} | {one['mismatch']:.1e} | "
                    f"{one['seconds']} |"
                )
    lines += ["", f"Command: `python scripts/bench_engines.py`. {in_words(report['machine'])}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_script(main)
