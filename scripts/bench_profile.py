"""Where an iteration's CPU time goes: matrix products, the rest by operation, padding, page faults.

One iteration of SDAR in a process of its own for each case and setting: rollout, scoring and update under torch's
profiler, then one more update without it, for seconds and page faults. Cases: ``quickstart`` (configs/quickstart.yaml:
the tiny policy plays households) and ``six_turns`` (bench_peers.py: 11M parameters, random weights, fixed lengths).
Settings: the defaults; ``fast``: ``attention: prefix_tree``, ``folded_lora``; ``compiled``: the same, with each layer
compiled (torch.compile) before the update, which takes minutes. The rate of a plain matrix product,
measured in the same process, says how fast this core can be. Writes benchmarks/profile.json.

Run: python scripts/bench_profile.py [--case six_turns quickstart] [--setting defaults fast] [--groups 4]
     python scripts/bench_profile.py --case six_turns --setting fast compiled --groups 1
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _common import in_words, machine, model_folder, run_script
from _peers import CASES, configuration

from sdar_pl.runtime.messages import PlainParser

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::addmm_")
PHASES = ("rollout", "score", "update")


def measure(case: str, setting: str, groups: int, malloc: str, micro_batch_tokens: int) -> dict[str, Any]:
    """In a process of its own: one case with one setting."""
    import torch
    from _allocator import keep_memory
    from _peer_ours import Endless, Fixed, Skills
    from torch.profiler import ProfilerActivity, profile

    from sdar_pl import datamodule
    from sdar_pl.engines import Sampling, TransformersEngine
    from sdar_pl.environments.household import Household
    from sdar_pl.modeling.prefix_tree import PrefixTree
    from sdar_pl.objectives import SDAR
    from sdar_pl.policy import LoRA, Policy
    from sdar_pl.prompts import Prompter
    from sdar_pl.rollout import PlayRules
    from sdar_pl.skills.providers import SkillContext
    from sdar_pl.teachers import Current

    torch.set_num_threads(1)
    torch.manual_seed(0)
    if malloc != "system":
        keep_memory()
    options: dict[str, Any] = {"attention": "prefix_tree", "folded_lora": True} if setting != "defaults" else {}
    objective = SDAR(reference_coefficient=0.01)
    common = {"tasks_per_iteration": groups, "group_size": 8, "micro_batch_tokens": micro_batch_tokens}
    if case == "quickstart":
        policy = Policy("tiny-household", LoRA(), **options)
        prompter = Prompter(max_prompt_tokens=1024, max_teacher_tokens=1536)
        common |= {"sampling": Sampling(max_new_tokens=24), "play": PlayRules(max_turns=12)}
        parts = Household(size="tiny", validation_tasks=96), TransformersEngine(), prompter, SkillContext("household")
    else:
        shape = CASES[case]
        with tempfile.TemporaryDirectory() as folder:
            path = model_folder(Path(folder) / "model", configuration("11m"))
            policy = Endless(path, LoRA(), random_weights=True, **options)
            policy.build()
        common |= {"sampling": Sampling(max_new_tokens=shape.reply), "play": PlayRules(max_turns=shape.turns)}
        parts = Fixed(shape), TransformersEngine(), Prompter(max_prompt_tokens=2048), Skills()  # type: ignore[assignment]
    policy.build()
    data = datamodule.RolloutDataModule(policy, objective, *parts, teacher=Current(), **common)  # type: ignore[arg-type]
    data.setup("fit")
    found: dict[str, Any] = {"rate": plain_rate()}

    def profiled(phase: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with profile(activities=[ProfilerActivity.CPU], with_flops=True) as profiler:
                result = work(*args, **kwargs)
            found[phase] = shares(profiler.key_averages())
            return result

        return run

    def update() -> None:
        for batch in iteration.batches:
            student, entropy, *_ = policy.logprobs(batch, entropy=True)
            objective(batch.loss_inputs(student, entropy=entropy, iteration=0)).loss.backward()
        policy.zero_grad()

    datamodule.roll_out = profiled("rollout", datamodule.roll_out)  # type: ignore[assignment]
    datamodule.score = profiled("score", datamodule.score)  # type: ignore[assignment]
    with policy.whole():
        iteration = data.collect(0)
    if setting == "compiled":
        for layer in policy.causal_lm.model.layers:
            layer.forward = torch.compile(layer.forward, dynamic=True)
    began = time.perf_counter()
    profiled("update", update)()
    found["first update, wall s"] = time.perf_counter() - began
    before = resource.getrusage(resource.RUSAGE_SELF)
    update()
    after = resource.getrusage(resource.RUSAGE_SELF)
    padded = sum(batch.tokens.numel() for batch in iteration.batches)
    real = sum(int(batch.attention.sum()) for batch in iteration.batches)
    rows = [
        [t[: int(n)] for t, n in zip(b.tokens.tolist(), b.attention.sum(1), strict=True)] for b in iteration.batches
    ]
    found["tokens"] = {
        "padded": padded,
        "of rows": real,
        "distinct": sum(len(PrefixTree.of(one).tokens) for one in rows),
        "responses": sum(int(batch.mask.sum()) for batch in iteration.batches),
    }
    found["plain update"] = {
        "user_s": after.ru_utime - before.ru_utime,
        "system_s": after.ru_stime - before.ru_stime,
        "faults": after.ru_minflt - before.ru_minflt,
        "peak_gib": after.ru_maxrss / 2**20,
    }
    return found


def plain_rate() -> float:
    """GFLOP/s of a product of two float32 matrices of 1,024 × 1,024: the best of ten."""
    import torch

    one = torch.randn(1024, 1024)
    best = min(_seconds(lambda: one @ one) for _ in range(10))
    return 2 * 1024**3 / best / 1e9


def _seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def shares(events: Any) -> dict[str, Any]:
    """CPU seconds of all operations, of the products, their GFLOP/s, and the largest other operations."""
    total = sum(one.self_cpu_time_total for one in events) / 1e6
    products = [one for one in events if one.key in PRODUCTS]
    seconds = sum(one.self_cpu_time_total for one in products) / 1e6
    others = sorted((one for one in events if one.key not in PRODUCTS), key=lambda one: -one.self_cpu_time_total)
    return {
        "seconds": total,
        "products": seconds / total,
        "gflops": sum(one.flops for one in products) / max(seconds, 1e-9) / 1e9,
        "others": {one.key: [one.self_cpu_time_total / 1e6 / total, one.count] for one in others[:12]},
    }


def markdown(report: dict[str, Any]) -> str:
    lines = [
        "| case | setting | phase | CPU s | products | their GFLOP/s (of a plain product's) | next |",
        "|---|---|---|--:|--:|--:|---|",
    ]
    for run in report["runs"]:
        for phase in PHASES:
            one = run[phase]
            others = list(one["others"].items())[:4]
            rest = ", ".join(f"{name.removeprefix('aten::')} {share:.0%}" for name, (share, _) in others)
            lines.append(
                f"| {run['case']} | {run['setting']} | {phase} | {one['seconds']:.2f} | {one['products']:.0%} "
                f"| {one['gflops']:.0f} ({one['gflops'] / run['rate']:.0%}) | {rest} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = PlainParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=["quickstart", *CASES], default=["six_turns", "quickstart"])
    parser.add_argument("--setting", nargs="+", choices=["defaults", "fast", "compiled"], default=["defaults", "fast"])
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--malloc", nargs="+", choices=["system", "kept"], default=["kept"])
    parser.add_argument("--micro-batch-tokens", type=int, default=16384)
    parser.add_argument("--out", type=Path, default=Path("benchmarks"))
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.case[0], args.setting[0], args.groups, args.malloc[0], args.micro_batch_tokens)))
        return
    runs = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    for case in args.case:
        for setting in args.setting:
            for malloc in args.malloc:
                words = ["--case", case, "--setting", setting, "--groups", str(args.groups), "--malloc", malloc]
                words += ["--micro-batch-tokens", str(args.micro_batch_tokens), "--one"]
                command = [sys.executable, __file__, *words]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
                runs.append(
                    {"case": case, "setting": setting, "malloc": malloc, **json.loads(done.stdout.splitlines()[-1])}
                )
                print(case, setting, malloc, runs[-1]["plain update"], runs[-1]["tokens"], flush=True)
    report = {
        "command": "python scripts/bench_profile.py" + "".join(f" {word}" for word in sys.argv[1:]),
        "machine": machine(1),
        "runs": runs,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "profile.json").write_text(json.dumps(report, indent=1) + "\n")
    print(markdown(report), in_words(report["machine"]), sep="\n")


if __name__ == "__main__":
    run_script(main)
