"""An iteration of GRPO against TRL's and ms-swift's: CPU seconds by phase and peak memory, interleaved.

All play the same lengths with a model of random weights: a group's prompt, replies of fixed length, and between them
observations of fixed length. TRL runs its own GRPOTrainer with its own multi-turn tool loop; only the parsing of a
reply, which random weights cannot write, is replaced, so that every reply calls the tool.

- ``trl``: as installed; ``trl_best``: log-probs of completion tokens only (as its fused kernel computes them on a
  GPU), and malloc told to keep memory;
- ``swift``: ms-swift's GRPO trainer with its own engine and multi-turn loop (transformers, no vLLM), malloc likewise;
  ``swift_sdar``: the same with its own SDAR, whose ``teacher_prompt`` has the same 96 tokens more;
- ``ours``: the defaults; ``ours_fast``: ``attention: prefix_tree``, ``folded_lora`` and, as ``micro_batch_tokens``,
  most of a group (``Case.budget``);
- ``sdar_fast``: SDAR with the same options and a privileged context of 96 tokens.

All: LoRA r = 16 on all linear layers, float32, AdamW, a reference KL, no gradient checkpointing, one optimizer step.
A process warms up with an iteration of one group. First, loss and gradient of one frozen group are compared. Writes
benchmarks/peers.json and benchmarks/peers.md after every process; _limits.py counts what an iteration takes at least.

Each needs a virtual environment of its own: python -m venv trl && trl/bin/pip install trl peft torch==<ours>;
python -m venv swift && swift/bin/pip install ms-swift msgspec torch==<ours>
Run: python scripts/bench_peers.py --trl trl/bin/python [--swift swift/bin/python] [--case six_turns one_turn]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import _limits
from _common import in_words, machine, model_folder, run_script
from _peers import CASES, PHASES, SHAPES, configuration

from sdar_pl.runtime.messages import PlainParser

HERE = Path(__file__).resolve().parent
CONTESTANTS = ("trl", "trl_best", "swift", "swift_sdar", "ours", "ours_fast", "sdar_fast")
THEIRS = {
    "trl": "_peer_trl.py",
    "trl_best": "_peer_trl.py",
    "swift": "_peer_swift.py",
    "swift_sdar": "_peer_swift.py",
}
KEEP = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**29)}
#: runs in the first pair only
ONCE = ("trl",)
#: name → the figure (of a case) that it is about, at least or at most, how much
GOALS = {
    "six turns, times as fast as `trl_best`": ("six_turns", "speed", "≥", 4.0),
    "one turn, times as fast as `trl_best`": ("one_turn", "speed", "≥", 2.0),
    "six turns, peak memory over `trl_best`'s": ("six_turns", "memory", "≤", 0.6),
    "one turn, peak memory over `trl_best`'s": ("one_turn", "memory", "≤", 0.6),
    "six turns, SDAR over GRPO": ("six_turns", "sdar", "≤", 1.15),
    "one turn, SDAR over GRPO": ("one_turn", "sdar", "≤", 1.15),
}


def run(name: str, folder: str, python: str, *words: str) -> str:
    """The output of one process of one contestant."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    environment |= KEEP if name in THEIRS and name != "trl" else {}
    script = THEIRS.get(name, "_peer_ours.py")
    command = [python if name in THEIRS else sys.executable, str(HERE / script), name, folder, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-3000:]}")
    return done.stdout


def frozen_group(folder: str, pythons: dict[str, str], case: str) -> dict[str, dict[str, float]]:
    """Loss and gradient of one group, and how far the gradient is from the last one's, of its norm."""
    import torch

    names = ["ours", "ours_fast", *(name for name in ("swift", "trl") if pythons[name])]
    with tempfile.TemporaryDirectory() as results:
        for name in names:  # ours first: it writes the weights
            run(name, folder, pythons.get(name, ""), case, "frozen", results)
        found = {name: torch.load(Path(results) / f"{name}.pt", weights_only=True) for name in names}
    theirs = found[names[-1]]["gradients"]
    norm = sum(float(one.double().square().sum()) for one in theirs.values()) ** 0.5
    compared = {}
    for name, one in found.items():
        assert one["gradients"].keys() == theirs.keys()
        apart = sum(float((one["gradients"][key] - theirs[key]).double().square().sum()) for key in theirs) ** 0.5
        compared[name] = {"loss": float(one["loss"]), "apart": apart / norm}
    return compared


def limits(case: str, groups: int, shape: str) -> dict[str, Any]:
    """What ``ours_fast`` takes at least, beside the other processes of this pair."""
    command = [sys.executable, str(HERE / "_limits.py"), case, str(groups), shape]
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def summary(name: str, rounds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Medians over processes; the ratio to ``trl_best`` is taken pair by pair."""
    runs = [one[name] for one in rounds if name in one]
    found: dict[str, Any] = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    base = [one for one in rounds if name in one and "trl_best" in one]
    if base:
        ratios = [one["trl_best"]["total"] / one[name]["total"] for one in base]
        found |= {"ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
        found["memory"] = statistics.median(one[name]["peak"] / one["trl_best"]["peak"] for one in base)
    return found


def rivals(rounds: list[dict[str, dict[str, float]]]) -> list[float]:
    """Times that ``swift_sdar`` takes longer than ``sdar_fast``, pair by pair."""
    return [one["swift_sdar"]["total"] / one["sdar_fast"]["total"] for one in rounds if "swift_sdar" in one]


def figures(rounds: list[dict[str, dict[str, float]]]) -> dict[str, float]:
    """What the goals are about."""
    whole = [one for one in rounds if {"trl_best", "ours_fast", "sdar_fast"} <= one.keys()]
    if not whole:
        return {}
    return {
        "speed": statistics.median(one["trl_best"]["total"] / one["ours_fast"]["total"] for one in whole),
        "memory": statistics.median(one["ours_fast"]["peak"] / one["trl_best"]["peak"] for one in whole),
        "sdar": statistics.median(one["sdar_fast"]["total"] / one["ours_fast"]["total"] for one in whole),
    }


def markdown(report: dict[str, Any]) -> str:
    lines = [
        "# An iteration of GRPO: TRL's, ms-swift's and ours",
        "",
        f"`{report['command']}`",
        f"on {in_words(report['machine'])}.",
        "",
        f"{report['groups']} groups of 8 episodes, a Qwen2 of the shape `{report['shape']}` with random weights, LoRA "
        f"r = 16, float32, one thread. CPU seconds of an iteration, medians of {report['pairs']} fresh processes each, "
        "interleaved; other work shared the cores, so that the ratios of a pair count, not the seconds. `trl` is TRL "
        "as installed, `trl_best` scores completion tokens only, with malloc told to keep memory; `swift` is "
        "ms-swift's GRPO with its own engine and multi-turn loop, malloc likewise, trained on the same tokens and "
        "those that end a turn; `swift_sdar` is its own SDAR; `ours` has the defaults, `ours_fast` "
        "`attention: prefix_tree`, `folded_lora` and `micro_batch_tokens: "
        f"{' and '.join(f'{CASES[case].budget:,} ({case})' for case in report['cases'])}`, `sdar_fast` is SDAR with "
        "these and a privileged context of 96 tokens.",
        "",
        "## One frozen group",
        "",
        "| | loss | gradient apart from the last one's, of its norm |",
        "|---|--:|--:|",
        *(f"| {name} | {one['loss']:.7f} | {one['apart']:.1e} |" for name, one in report["frozen"].items()),
        "",
    ]
    for case, found in report["cases"].items():
        lines += [
            f"## {case}: {found['ours_fast']['tokens']:.0f} tokens a row",
            "",
            "| | CPU s | rollout | score | update | wall s | peak GiB | times `trl_best`, lowest – highest | peak |",
            "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for name, one in found.items():
            parts = " | ".join(f"{one[phase]:.1f}" for phase in PHASES)
            ratio = f"{one['ratio']:.2f} × ({one['lowest']:.2f} – {one['highest']:.2f})" if "ratio" in one else ""
            peak = f"{one['memory']:.2f}" if "memory" in one else ""
            lines.append(
                f"| {name} | {one['total']:.1f} | {parts} | {one['wall']:.1f} | {one['peak']:.2f} | {ratio} | {peak} |"
            )
        lines.append("")
        if ratios := report["rivals"].get(case):
            words = (
                f"SDAR against SDAR: `swift_sdar` takes {statistics.median(ratios):.1f} times `sdar_fast`'s time "
                f"({min(ratios):.1f} – {max(ratios):.1f})."
            )
            if len(gaps := report["gaps"][case]) > 1:
                words += (
                    " Its `teacher_prompt` takes the place of the last user message, so that the last reply alone is "
                    "scored behind it: largest distance of its teacher's log-probs from the student's, turn by turn, "
                    f"{', '.join(f'{gap:.2g}' for gap in gaps)} nats."
                )
            lines += [words, ""]
    lines += ["## Goals", "", "| | goal | measured | |", "|---|--:|--:|---|"]
    for name, (case, key, sign, goal) in GOALS.items():
        if (value := report["goals"].get(case, {}).get(key)) is not None:
            met = value >= goal if sign == "≥" else value <= goal
            verdict = "met" if met else f"missed by {abs(value / goal - 1):.0%}"
            lines.append(f"| {name} | {sign} {goal} | {value:.2f} | {verdict} |")
    floors = [
        (case, 1 + found["ours_fast"]["score"] / found["ours_fast"]["total"]) for case, found in report["cases"].items()
    ]
    lines += [
        "",
        "SDAR's ratio: its teacher reads every token once more, behind 96 tokens of context. At the speed of the pass "
        "that scores for GRPO, without the context, that alone is "
        f"{' and '.join(f'{floor:.2f} ({case})' for case, floor in floors)}.",
    ]
    return "\n".join([*lines, *_limits.lines(report)]) + "\n"


def main() -> None:
    parser = PlainParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", default="", help="python of TRL's environment; without it ours alone is measured")
    parser.add_argument("--swift", default="", help="python of ms-swift's environment; without it the others alone")
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=["six_turns", "one_turn"])
    parser.add_argument("--shape", choices=list(SHAPES), default="11m")
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--iterations", type=int, default=1, help="measured iterations of a process")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks"))
    args = parser.parse_args()
    pythons = {name: args.trl if script == "_peer_trl.py" else args.swift for name, script in THEIRS.items()}
    names = [name for name in CONTESTANTS if pythons.get(name, "ours")]
    report: dict[str, Any] = {
        "command": "python scripts/bench_peers.py" + "".join(f" {word}" for word in sys.argv[1:]),
        "machine": machine(1),
        **{
            "groups": args.groups,
            "shape": args.shape,
            "pairs": args.pairs,
            "cases": {},
            "goals": {},
            "rivals": {},
            "gaps": {},
            "limits": {},
            "runs": [],
        },
    }
    for package, python in (("trl", args.trl), ("ms-swift", args.swift)):
        if python:
            words = [python, "-c", f"from importlib.metadata import version; print(version('{package}'))"]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            report["machine"][package] = done.stdout.strip()
    args.out.mkdir(parents=True, exist_ok=True)

    def write() -> None:
        (args.out / "peers.json").write_text(json.dumps(report, indent=1) + "\n")
        (args.out / "peers.md").write_text(markdown(report))

    with tempfile.TemporaryDirectory() as scratch:
        folder = model_folder(Path(scratch) / "model", configuration(args.shape))
        report["frozen"] = frozen_group(folder, pythons, args.case[0])
        print(report["frozen"], flush=True)
        rounds: dict[str, list[dict[str, dict[str, float]]]] = {case: [] for case in args.case}
        for number in range(args.pairs):
            for case in args.case:
                rounds[case].append({})
                for name in names if number % 2 == 0 else names[::-1]:
                    if name in ONCE and number:
                        continue
                    found = run(name, folder, pythons.get(name, ""), case, str(args.groups), str(args.iterations))
                    one = rounds[case][-1][name] = json.loads(found.splitlines()[-1])
                    if gaps := one.pop("gaps", None):
                        report["gaps"][case] = gaps
                    report["runs"].append({"case": case, "pair": number, "name": name, **one})
                    print(case, number, name, one, flush=True)
                report["cases"][case] = {name: summary(name, rounds[case]) for name in names}
                report["goals"][case], report["rivals"][case] = figures(rounds[case]), rivals(rounds[case])
                if number == 0:  # they do not depend on the pair
                    report["limits"][case] = limits(case, args.groups, args.shape)
                write()
    print(markdown(report))


if __name__ == "__main__":
    run_script(main)
