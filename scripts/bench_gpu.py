"""QLoRA on one GPU: decoding, teacher and update of Qwen2.5-3B and 7B, in seconds, bytes and shares of the card.

Random weights (nothing is downloaded), NF4 base, LoRA r = 32, bfloat16, gradient checkpointing, paged 8-bit AdamW; one
group of 8 episodes with a prompt of 2,048 and responses of 512 tokens; SDAR's teacher reads 256 tokens more. Each shape
is a process of its own; the first round warms up, medians are of the others. What ``plan`` foretells stands beside what
was measured. Writes benchmarks/gpu.json and benchmarks/gpu.md; other shapes' runs stay in them.

Run: python scripts/bench_gpu.py [--shape 3b 7b] [--quantization nf4] [--out benchmarks]
     python scripts/bench_gpu.py --shape 7b --runs 1 --brief
Try it without a GPU: python scripts/bench_gpu.py --shape tiny --device cpu --out /tmp/bench
"""

from __future__ import annotations

import argparse
import contextlib
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

from _card import ceilings, sizes
from _common import in_words, machine, model_folder, run_script

from sdar_pl.runtime.messages import PlainParser

FOLDER = Path(__file__).resolve().parents[1] / "configs"
CONFIGS = [f"--config={FOLDER / name}.yaml" for name in ("household/sdar", "hardware/one_24gb")]
SHAPES = {"tiny": "tiny", "3b": "Qwen/Qwen2.5-3B-Instruct", "7b": "Qwen/Qwen2.5-7B-Instruct"}
AIM = {"3b": 12, "7b": 20}  # GiB
RANK = 32
#: prefix tree, lean layers, precision. Layers stay lean: the others come first.
VARIANTS = ((False, False, "32-true"), (True, False, "32-true"), (True, False, "bf16-mixed"), (True, True, "32-true"))


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


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """In a process of its own: one shape."""
    import bitsandbytes as bnb
    import numpy as np
    import torch

    from sdar_pl.batch import Row, collate
    from sdar_pl.engines import Request, Sampling, TransformersEngine
    from sdar_pl.modeling.lean_layers import make_lean
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
            attention="prefix_tree",
            random_weights=True,
        )
        policy.build()
    policy.to(device)
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = bnb.optim.PagedAdamW8bit(trained, lr=1e-5)
    draw = np.random.default_rng(0)
    prompt, skills = (draw.integers(10, config.vocab_size, n).tolist() for n in (args.prompt, args.skills))
    budget = Budget(args.micro_batch_tokens)

    def timed(work: Callable[[], Any]) -> tuple[Any, float, int]:
        """(result, seconds, peak bytes)"""
        if on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        result = work()
        if on_gpu:
            torch.cuda.synchronize()
        return result, time.perf_counter() - began, torch.cuda.max_memory_allocated() if on_gpu else 0

    def mixed(precision: str) -> Any:
        return torch.autocast(args.device, torch.bfloat16) if precision == "bf16-mixed" else contextlib.nullcontext()

    def roll_out(engine: TransformersEngine, number: int, length: int) -> list[Row]:
        engine.sync(policy)
        requests = [Request(n, prompt, np.random.default_rng([number, n]), keep=False) for n in range(args.group)]
        with policy.whole():
            completions = engine.generate(requests, Sampling(max_new_tokens=length))
        engine.release(range(args.group))
        rows = []
        for n, done in enumerate(completions):
            tokens, count = [*prompt, *done.tokens], len(done.tokens)
            row = Row(n, 0, tokens, list(range(len(prompt), len(tokens))), [0] * count, done.logprobs)
            row.teacher_tokens = [*skills, *tokens]
            row.teacher_positions = [position + len(skills) for position in row.positions]
            row.advantages = [1.0 if n % 2 else -1.0] * count
            rows.append(row)
        return rows

    def update(rows: list[Row], objective: Any) -> None:
        total = float(sum(len(row.positions) for row in rows))
        for part in pack([row.tokens for row in rows], args.micro_batch_tokens, policy.shares_prefixes):
            batch = collate([rows[i] for i in part]).to(device)
            student, entropy, *_ = policy.logprobs(batch, entropy=True)
            batch.total_tokens, batch.total_rows = total, float(len(rows))
            objective(batch.loss_inputs(student, entropy=entropy, iteration=0)).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    rates = ceilings(device)
    flop, stored, cached = sizes(policy)
    decoding, rows = {}, list[Row]()
    for slots in (True,) if args.brief else (False, True):
        engine = TransformersEngine(max_rows=args.group, prefill_tokens=8192, slots=slots)
        length = args.response if slots else min(64, args.response)
        roll_out(engine, 0, min(4, length))
        _, first, _ = timed(partial(roll_out, engine, 1, 1))
        rows, whole, peak = timed(partial(roll_out, engine, 2, length))
        with policy.whole():
            theirs = policy.logprobs(collate(rows).to(device)).values.cpu()
        step = (whole - first) / (length - 1)
        longest = args.prompt + length / 2
        decoding["slots" if slots else "growing"] = {
            "tokens_per_s": engine.generated / whole,
            "prefill_s": first,
            "step_ms": 1000 * step,
            "limit": (stored + cached * args.group * longest) / rates["bytes_per_s"] / step,
            "mismatch": float((theirs - collate(rows).engine_logprobs).abs().mean()),
            "peak": peak,
        }
    found = {}
    for shared, lean, precision in VARIANTS:
        if args.brief and precision != "32-true":
            continue
        policy.shares_prefixes = shared
        if lean:
            make_lean(policy.net)
        for objective in (GRPO(), SDAR()):
            rounds: list[dict[str, float]] = []
            for _ in range(args.runs + 1):
                policy.train()
                one = {"score_s": 0.0}
                with mixed(precision):
                    if objective.needs_teacher:
                        look = partial(set_teacher_logprobs, rows, policy, Current(), temperature=1.0, budget=budget)
                        with policy.whole():
                            _, one["score_s"], one["score_peak"] = timed(look)
                    _, one["update_s"], one["peak"] = timed(partial(update, rows, objective))
                rounds.append(one)
            medians = {name: statistics.median(one[name] for one in rounds[1:]) for name in rounds[0]}
            name = ", ".join(("prefix_tree" if shared else "sdpa", *(["lean"] if lean else []), precision))
            name += f", {type(objective).__name__.lower()}"
            tokens = args.prompt + args.group * args.response if shared else args.group * (args.prompt + args.response)
            found[name] = medians | {"tokens": tokens, "flop_per_s": tokens * flop / medians["update_s"]}
    return {"decoding": decoding, "update": found, "rates": rates, "stored": stored}


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
    def gib(size: float | None) -> str:
        return f"{size / 2**30:.2f}" if size else "–"

    lines = ["# QLoRA on one device", "", "Peaks are of `torch.cuda.max_memory_allocated`, in GiB."]
    for run in report["runs"]:
        rates, plan, aim = run["rates"], run["foretold"], AIM.get(run["shape"])
        lines += [
            "",
            f"## {run['shape']}",
            "",
            f"`{run['command']}`",
            f"on {in_words(run['machine'])}.",
            "",
            run["case"],
            f"One large product in bfloat16 reaches {rates['flop_per_s'] / 1e12:.0f} TFLOP/s, one large copy "
            f"{rates['bytes_per_s'] / 1e9:,.0f} GB/s. `plan` foretells {gib(plan['rollout'])} GiB for the rollout and "
            f"{gib(plan['update'])} for the update" + (f"; the aim is at most {aim}." if aim else "."),
            "",
            "| decoding | tokens/s | prefill s | step ms | of the copy's rate | mismatch, nats | peak |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        for name, one in run["decoding"].items():
            lines.append(
                f"| {name} | {one['tokens_per_s']:,.0f} | {one['prefill_s']:.2f} | {one['step_ms']:.1f} "
                f"| {one['limit']:.0%} | {one['mismatch']:.1e} | {gib(one['peak'])} |"
            )
        lines += [
            "",
            "| update | tokens | teacher s | update s | of the product's rate | peak, teacher | peak, update |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        for name, one in run["update"].items():
            lines.append(
                f"| {name} | {one['tokens']:,} | {one['score_s']:.2f} | {one['update_s']:.2f} "
                f"| {one['flop_per_s'] / rates['flop_per_s']:.0%} | {gib(one.get('score_peak'))} | {gib(one['peak'])} |"
            )
    lines += [
        "",
        "Of the copy's rate: weights as they are stored and the caches of all rows, read once a step. Of the product's "
        "rate: forward products and those of the inputs' gradients of the linear layers, for the tokens that are read; "
        "what gradient checkpointing computes again, attention, adapters and the output layer do not count. Mismatch: "
        "mean distance of the engine's log-probs from the trainer's.",
    ]
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
    parser.add_argument("--brief", action="store_true", help="without the growing cache and bf16-mixed, a minute less")
    parser.add_argument("--out", type=Path, default=Path("benchmarks"))
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        print(json.dumps(measure(args)))
        return
    command = "python scripts/bench_gpu.py" + "".join(f" {word}" for word in sys.argv[1:])
    case = (
        f"Random weights, {args.quantization}, r = {RANK}, bfloat16, one group of {args.group}, prompt {args.prompt:,} "
        f"+ response {args.response:,} tokens, {args.micro_batch_tokens:,} tokens a micro-batch."
    )
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "gpu.json"
    report = json.loads(file.read_text()) if file.exists() else {"runs": []}
    for shape in args.shape:
        args.shape = [shape]
        words = [
            word
            for name, value in vars(args).items()
            if name not in ("shape", "out", "alone", "brief")
            for word in (f"--{name.replace('_', '-')}", str(value))
        ]
        alone = [sys.executable, __file__, "--alone", "--shape", shape, *words, *(["--brief"] if args.brief else [])]
        done = subprocess.run(alone, stdout=subprocess.PIPE, text=True, check=True)
        facts = {"shape": shape, "command": command, "machine": machine(), "case": case, "foretold": foretold(args)}
        others = [run for run in report["runs"] if run["shape"] != shape]
        report["runs"] = [*others, facts | json.loads(done.stdout.splitlines()[-1])]
        file.write_text(json.dumps(report, indent=1) + "\n")
        (args.out / "gpu.md").write_text(markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    run_script(main)
