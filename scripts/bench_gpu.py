"""QLoRA on one GPU: peak memory, rollout tokens/s and update time of GRPO and SDAR for the shapes of Qwen2.5-3B and 7B.

Random weights (nothing is downloaded), NF4 base, LoRA r = 32, bfloat16, gradient checkpointing, paged 8-bit AdamW; one
group of 8 episodes with a prompt of 2,048 and responses of 512 tokens; SDAR's teacher reads 256 tokens more. Each case
is a process of its own; the first round warms up, medians are of the others. What ``plan`` foretells stands beside what
was measured. Writes benchmarks/gpu.json and benchmarks/gpu.md.

Run: python scripts/bench_gpu.py [--shape 3b 7b] [--quantization nf4] [--out benchmarks]
Try it without a GPU: python scripts/bench_gpu.py --shape tiny --device cpu --out /tmp/bench
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from _common import in_words, machine, model_folder, run_script

from sdar_pl.runtime.messages import PlainParser

FOLDER = Path(__file__).resolve().parents[1] / "configs"
CONFIGS = [f"--config={FOLDER / name}.yaml" for name in ("household/sdar", "hardware/one_24gb")]
SHAPES = {"tiny": "tiny", "3b": "Qwen/Qwen2.5-3B-Instruct", "7b": "Qwen/Qwen2.5-7B-Instruct"}
AIM = {"3b": 12, "7b": 20}  # GiB
RANK = 32


def configuration(shape: str) -> Any:
    """The architecture alone."""
    from transformers import Qwen2Config

    from sdar_pl.modeling.architectures import known

    if shape != "tiny":
        return known(SHAPES[shape])
    return Qwen2Config(
        vocab_size=1000,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )


def measure(args: argparse.Namespace, objective_name: str) -> dict[str, Any]:
    """In a process of its own: one shape with one objective."""
    import bitsandbytes as bnb
    import numpy as np
    import torch

    from sdar_pl.batch import Row, collate
    from sdar_pl.engines import Request, Sampling, TransformersEngine
    from sdar_pl.modeling.prefix_tree import pack
    from sdar_pl.objectives import GRPO, SDAR
    from sdar_pl.policy import LoRA, Policy
    from sdar_pl.sampling.budget import Budget
    from sdar_pl.scoring import set_teacher_logprobs
    from sdar_pl.teachers import Current

    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    device, on_gpu = torch.device(args.device), args.device.startswith("cuda")
    config = configuration(args.shape[0])
    with tempfile.TemporaryDirectory() as folder, torch.device(device):
        policy = Policy(
            model_folder(Path(folder) / "model", config),
            LoRA(r=RANK, alpha=2 * RANK),
            dtype="bfloat16",
            quantization=None if args.quantization == "none" else args.quantization,
            gradient_checkpointing=True,
            random_weights=True,
        )
        policy.build()
    policy.to(device)
    objective = GRPO() if objective_name == "grpo" else SDAR()
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = bnb.optim.PagedAdamW8bit(trained, lr=1e-5)
    engine = TransformersEngine(max_rows=args.group, prefill_tokens=8192)
    draw = np.random.default_rng(0)
    prompt, skills = (draw.integers(10, config.vocab_size, n).tolist() for n in (args.prompt, args.skills))
    peaks: dict[str, int] = {}

    def timed(phase: str, work: Callable[[], Any]) -> tuple[Any, float]:
        if on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        result = work()
        if on_gpu:
            torch.cuda.synchronize()
            peaks[phase] = max(peaks.get(phase, 0), torch.cuda.max_memory_allocated())
        return result, time.perf_counter() - began

    def roll_out(number: int) -> list[Row]:
        engine.sync(policy)
        requests = [Request(n, prompt, np.random.default_rng([number, n]), keep=False) for n in range(args.group)]
        with policy.whole():
            completions = engine.generate(requests, Sampling(max_new_tokens=args.response))
        rows = []
        for n, done in enumerate(completions):
            tokens, count = [*prompt, *done.tokens], len(done.tokens)
            row = Row(n, 0, tokens, list(range(len(prompt), len(tokens))), [0] * count, done.logprobs)
            row.teacher_tokens = [*skills, *tokens]
            row.teacher_positions = [position + len(skills) for position in row.positions]
            row.advantages = [1.0 if n % 2 else -1.0] * count
            rows.append(row)
        return rows

    def update(rows: list[Row]) -> None:
        total = float(sum(len(row.positions) for row in rows))
        for part in pack([row.tokens for row in rows], args.micro_batch_tokens, policy.shares_prefixes):
            batch = collate([rows[i] for i in part]).to(device)
            student, entropy, *_ = policy.logprobs(batch, entropy=True)
            batch.total_tokens, batch.total_rows = total, float(len(rows))
            objective(batch.loss_inputs(student, entropy=entropy, iteration=0)).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    budget = Budget(args.micro_batch_tokens)
    rounds: dict[str, list[float]] = {"rollout_tokens_per_s": [], "score_s": [], "update_s": []}

    def look(rows: list[Row]) -> None:
        if objective.needs_teacher:
            with policy.whole():
                set_teacher_logprobs(rows, policy, Current(), temperature=1.0, budget=budget)

    for number in range(args.runs + 1):
        policy.train()
        rows, rollout_s = timed("rollout", partial(roll_out, number))
        _, score_s = timed("score", partial(look, rows))
        _, update_s = timed("update", partial(update, rows))
        if number:
            rounds["rollout_tokens_per_s"].append(engine.generated / rollout_s)
            rounds["score_s"].append(score_s)
            rounds["update_s"].append(update_s)
    return {
        "medians": {name: statistics.median(runs) for name, runs in rounds.items()},
        "rounds": rounds,
        "peaks": peaks,
    }


def foretold(args: argparse.Namespace) -> dict[str, int]:
    """The peaks that ``plan`` gives for the same case."""
    options = {
        "data.prompter.init_args.max_prompt_tokens": args.prompt,
        "data.sampling.max_new_tokens": args.response,
        "data.engine.init_args.max_rows": args.group,
        "data.tasks_per_iteration": 1,
        "data.group_size": args.group,
        "data.micro_batch_tokens": args.micro_batch_tokens,
        "model.policy.lora.r": RANK,
        "model.policy.quantization": "null" if args.quantization == "none" else args.quantization,
    }
    with tempfile.TemporaryDirectory() as folder:
        model = model_folder(Path(folder) / "model", configuration(args.shape[0]))
        words = [f"--{name}={value}" for name, value in {**options, "model.policy.model": model}.items()]
        command = [sys.executable, "-m", "sdar_pl", "plan", *CONFIGS, *words, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout)["peaks"])


def markdown(report: dict[str, Any]) -> str:
    def gib(size: int | None) -> str:
        return f"{size / 2**30:.2f}" if size else "–"

    lines = [
        "# QLoRA on one device",
        "",
        f"`{report['command']}`",
        f"on {in_words(report['machine'])}.",
        "",
        f"{report['case']}",
        "Peaks are of `torch.cuda.max_memory_allocated`, in GiB; in brackets what `plan` foretells.",
        "",
        "| shape | objective | rollout tokens/s | teacher s | update s | peak, rollout | peak, update | aim |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for run in report["runs"]:
        medians, peaks, plan = run["medians"], run["peaks"], run["foretold"]
        both = (f"{gib(peaks.get(phase))} ({gib(plan[phase])})" for phase in ("rollout", "update"))
        aim = f"≤ {AIM[run['shape']]}" if run["shape"] in AIM else ""
        lines.append(
            f"| {run['shape']} | {run['objective']} | {medians['rollout_tokens_per_s']:.0f} | {medians['score_s']:.2f} "
            f"| {medians['update_s']:.2f} | {' | '.join(both)} | {aim} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = PlainParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=list(SHAPES), default=["3b", "7b"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quantization", choices=["nf4", "int8", "none"], default="nf4")
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=2048)
    parser.add_argument("--response", type=int, default=512)
    parser.add_argument("--skills", type=int, default=256)
    parser.add_argument("--micro-batch-tokens", type=int, default=10240)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks"))
    parser.add_argument("--objective", choices=["grpo", "sdar"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.objective:
        print(json.dumps(measure(args, args.objective)))
        return
    runs = []
    for shape in args.shape:
        args.shape = [shape]
        plan = foretold(args)
        for objective in ("grpo", "sdar"):
            words = [
                word
                for name, value in vars(args).items()
                if name not in ("shape", "objective", "out")
                for word in (f"--{name.replace('_', '-')}", str(value))
            ]
            command = [sys.executable, __file__, "--shape", shape, "--objective", objective, *words]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            runs.append({"shape": shape, "objective": objective, "foretold": plan, **found})
            print(shape, objective, found["medians"], found["peaks"], flush=True)
    report = {
        "command": "python scripts/bench_gpu.py" + "".join(f" {word}" for word in sys.argv[1:]),
        "machine": machine(),
        "case": f"Random weights, {args.quantization}, r = {RANK}, bfloat16, one group of {args.group}, prompt "
        f"{args.prompt:,} + response {args.response:,} tokens, {args.micro_batch_tokens:,} tokens a micro-batch.",
        "runs": runs,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.out / "gpu.md").write_text(markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    run_script(main)
