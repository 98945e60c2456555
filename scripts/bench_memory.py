"""How much memory an update takes: logits of the whole batch against log-probs in chunks, for three vocabularies.

One forward and backward of a small random model (LoRA, entropy asked for) per process; the figure is the growth of the
process's resident set from just before the update to its height. "plain" is what is usually written: the model's logits
in float32, log_softmax, gather. "chunked" is ``Policy.logprobs``.
Writes benchmarks/memory.json and benchmarks/memory.md. Linux only.

Run: python scripts/bench_memory.py [--vocabularies 32000 64000 152000] [--rows 2] [--length 768]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _common import in_words, machine, model_folder, run_script

from sdar_pl.runtime.messages import PlainParser

HIDDEN, LAYERS = 256, 4


def resident(field: str) -> int:
    """``VmRSS`` or ``VmHWM`` of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def measure(way: str, vocabulary: int, rows: int, length: int, chunk: int) -> dict[str, float]:
    """In a process of its own."""
    import torch
    from transformers import Qwen2Config

    from sdar_pl.batch import Row, collate
    from sdar_pl.policy import LoRA, Policy

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        policy = Policy(model_folder(Path(folder) / "model", config), LoRA(), random_weights=True, logits_chunk=chunk)
        policy.build()
    middle = length // 2
    tokens = torch.randint(0, vocabulary, (rows, length)).tolist()
    positions, zeros = list(range(middle, length)), [0] * (length - middle)
    batch = collate([Row(n, 0, row, positions, zeros, [0.0] * len(zeros)) for n, row in enumerate(tokens)])

    def plain() -> tuple[torch.Tensor, torch.Tensor]:
        logits = policy.causal_lm(batch.tokens, attention_mask=batch.attention, use_cache=False).logits[:, :-1].float()
        logp = logits.log_softmax(-1)
        picked = logp.gather(-1, batch.tokens[:, 1:, None]).squeeze(-1)
        return picked[:, middle - 1 :], -(logp.exp() * logp).sum(-1)[:, middle - 1 :]

    def chunked() -> tuple[torch.Tensor, torch.Tensor]:
        values, entropy, *_ = policy.logprobs(batch, entropy=True)
        assert entropy is not None
        return values, entropy

    Path("/proc/self/clear_refs").write_text("5")  # the height so far is forgotten
    before, began = resident("VmRSS"), time.perf_counter()
    values, entropy = plain() if way == "plain" else chunked()
    (values.sum() + 0.1 * entropy.sum()).backward()
    seconds = time.perf_counter() - began
    gradient = sum(float(p.grad.double().square().sum()) for p in policy.parameters() if p.grad is not None)
    return {"growth": resident("VmHWM") - before, "seconds": seconds, "gradient": gradient**0.5}


def markdown(report: dict) -> str:  # type: ignore[type-arg]
    lines = [
        "# Memory of an update: all logits against chunks",
        "",
        f"`{report['command']}`",
        f"on {in_words(report['machine'])}.",
        "",
        f"{report['rows']} rows of {report['length']} tokens, half of them responses; Qwen2 of {LAYERS} layers, width",
        f"{HIDDEN}, random weights, LoRA, float32; chunks of {report['chunk']} tokens. Growth of the resident set",
        "over one forward and backward, each in a fresh process.",
        "",
        "| vocabulary | plain | chunked | plain / chunked | seconds, plain | seconds, chunked |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for vocabulary, found in report["runs"].items():
        plain, chunked = found["plain"], found["chunked"]
        lines.append(
            f"| {int(vocabulary):,} | {plain['growth'] / 2**20:,.0f} MiB | {chunked['growth'] / 2**20:,.0f} MiB "
            f"| {plain['growth'] / chunked['growth']:.1f} | {plain['seconds']:.2f} | {chunked['seconds']:.2f} |"
        )
    lines += ["", "Both ways give the same gradient (its norm agrees to five digits; checked at every run)."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = PlainParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[32_000, 64_000, 152_000])
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=768)
    parser.add_argument("--chunk", type=int, default=128)
    parser.add_argument("--out", type=Path, default=Path("benchmarks"))
    parser.add_argument("--way", choices=["plain", "chunked"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measure(args.way, args.vocabularies[0], args.rows, args.length, args.chunk)))
        return
    runs: dict[str, dict[str, dict[str, float]]] = {}
    for vocabulary in args.vocabularies:
        runs[str(vocabulary)] = found = {}
        for way in ("plain", "chunked"):
            shape = ["--rows", str(args.rows), "--length", str(args.length), "--chunk", str(args.chunk)]
            command = [sys.executable, __file__, "--way", way, "--vocabularies", str(vocabulary), *shape]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[way] = json.loads(done.stdout.splitlines()[-1])
            print(f"{vocabulary:>8} {way:>8}: {found[way]['growth'] / 2**20:8.0f} MiB", flush=True)
        plain, chunked = (found[way]["gradient"] for way in ("plain", "chunked"))
        assert abs(plain - chunked) <= 1e-5 * plain, (plain, chunked)
    report = {
        "command": "python scripts/bench_memory.py" + "".join(f" {word}" for word in sys.argv[1:]),
        "machine": machine(threads=1),
        "rows": args.rows,
        "length": args.length,
        "chunk": args.chunk,
        "runs": runs,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "memory.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.out / "memory.md").write_text(markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    run_script(main)
