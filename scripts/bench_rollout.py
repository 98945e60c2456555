"""How fast are rollouts: the ``transformers`` engine against ``model.generate`` called turn by turn.

Both play the same six-turn conversations of household games (8 episodes a group) with the same replies: a script
decides each token *after* it has been sampled, so lengths and contents are equal and sampling is paid for. Plain
``generate`` reads the whole conversation again at every turn (left-padded batch) and returns no log-probs; the engine
keeps its cache, runs a group's common prompt once, lets finished rows leave, and returns log-probs.
Runs are interleaved; writes benchmarks/rollout.json and benchmarks/rollout.md.

Run: python scripts/bench_rollout.py [--model tiny-household] [--groups 8] [--runs 5]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import json
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from _common import run_script
from torch import Tensor
from transformers import LogitsProcessor

from sdar_pl.engines import Request, Sampling, TransformersEngine
from sdar_pl.environments.household import Household
from sdar_pl.environments.household.expert import Novice
from sdar_pl.policy import Policy
from sdar_pl.prompts import Prompter
from sdar_pl.runtime.messages import PlainParser
from sdar_pl.types import Episode, Turn

TURNS = 6


@dataclass
class Conversation:
    """``prompts[k]`` are the new prompt tokens of turn k, ``replies[k]`` the scripted response with its end token."""

    prompts: list[list[int]]
    replies: list[list[int]]


@dataclass
class Result:
    seconds: float
    cpu_seconds: float
    generated: int
    prefilled: int

    @property
    def rate(self) -> float:
        return self.generated / self.seconds


def since(began: tuple[float, float]) -> tuple[float, float]:
    """Seconds by the clock, and seconds of processor time, which other work on the machine disturbs less."""
    return time.perf_counter() - began[0], time.process_time() - began[1]


def conversations(policy: Policy, groups: int, size: int) -> list[Conversation]:
    """Six-turn plays of the scripted novice, ``size`` for each of ``groups`` games; as in training, they differ."""
    household, prompter = Household(size="tiny"), Prompter(max_prompt_tokens=100_000)
    prompter.bind(policy.tokenizer)
    made: list[Conversation] = []
    for task in household.tasks("train"):
        group: list[Conversation] = []
        for seed in range(20 * size):
            session, player = household.session(task), Novice(task.text, random.Random(seed))
            observation = session.reset()
            episode, conversation = Episode(task, 0, 0, observation), Conversation([], [])
            for _ in range(TURNS):
                if observation.done:
                    break
                prompt, _ = prompter.prompts(household, episode)
                action = player.act(observation)
                reply = [*policy.tokenizer.encode(f"<action>{action}</action>"), policy.tokenizer.eos_token_id]
                observation = session.step(action)
                episode.turns.append(Turn(prompt, reply, [], "", action, True, observation))
                conversation.prompts.append(prompt)
                conversation.replies.append(reply)
            if len(conversation.prompts) == TURNS:
                group.append(conversation)
            if len(group) == size:
                break
        if len(group) == size:
            made.extend(group)
        if len(made) == groups * size:
            return made
    raise SystemExit("too few games with six turns")


class ScriptedEngine(TransformersEngine):
    """Draws as the engine does, then takes the scripted token instead."""

    script: dict[int, list[int]]

    def _draw(
        self, logits: Tensor, rows: Sequence[Request], running: Sequence[bool], sampling: Sampling
    ) -> tuple[list[int], list[float]]:
        tokens, logprobs = super()._draw(logits, rows, running, sampling)
        for place, row in enumerate(rows):
            if running[place]:
                tokens[place] = self.script[row.session].pop(0)
        return tokens, logprobs


def run_engine(policy: Policy, played: Sequence[Conversation]) -> Result:
    engine = ScriptedEngine()
    began = time.perf_counter(), time.process_time()
    engine.sync(policy)
    contexts: list[list[int]] = [[] for _ in played]
    streams = [np.random.default_rng(n) for n in range(len(played))]
    for turn in range(TURNS):
        engine.script = {n: list(conversation.replies[turn]) for n, conversation in enumerate(played)}
        for context, conversation in zip(contexts, played, strict=True):
            context.extend(conversation.prompts[turn])
        requests = [Request(n, contexts[n], streams[n]) for n in range(len(played))]
        for context, completion in zip(contexts, engine.generate(requests, Sampling(max_new_tokens=64)), strict=True):
            context.extend(completion.tokens)
    return Result(*since(began), engine.generated, engine.prefilled)


class Script(LogitsProcessor):
    """Leaves only the scripted token of each row possible."""

    def __init__(self, replies: Sequence[Sequence[int]], end: int) -> None:
        longest = max(map(len, replies))
        self.tokens = torch.tensor([[*reply, *[end] * (longest - len(reply))] for reply in replies])
        self.step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        wanted = self.tokens[:, self.step, None]
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter(1, wanted, scores.gather(1, wanted))


@torch.no_grad()
def run_generate(policy: Policy, played: Sequence[Conversation]) -> Result:
    pad, end = policy.tokenizer.pad_token_id, policy.tokenizer.eos_token_id
    policy.eval()
    generated = prefilled = 0
    began = time.perf_counter(), time.process_time()
    contexts: list[list[int]] = [[] for _ in played]
    for turn in range(TURNS):
        for context, conversation in zip(contexts, played, strict=True):
            context.extend(conversation.prompts[turn])
        prefilled += sum(map(len, contexts))
        width = max(map(len, contexts))
        replies = [conversation.replies[turn] for conversation in played]
        output = policy.causal_lm.generate(
            input_ids=torch.tensor([[pad] * (width - len(context)) + context for context in contexts]),
            attention_mask=torch.tensor([[0] * (width - len(context)) + [1] * len(context) for context in contexts]),
            max_new_tokens=64,
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            eos_token_id=end,
            pad_token_id=pad,
            logits_processor=[Script(replies, end)],
            use_cache=True,
        )[:, width:].tolist()
        for context, reply, row in zip(contexts, replies, output, strict=True):
            assert row[: len(reply)] == reply, "generate did not follow the script"
            context.extend(reply)
            generated += len(reply)
    return Result(*since(began), generated, prefilled)


def main() -> None:
    parser = PlainParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="tiny-household")
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--size", type=int, default=8, help="episodes a group")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    policy = Policy(args.model)
    policy.build()
    played = conversations(policy, args.groups, args.size)
    contestants = {"engine": run_engine, "generate": run_generate}
    results: dict[str, list[Result]] = {name: [] for name in contestants}
    for number in range(args.runs + 1):
        for name, run in contestants.items():
            result = run(policy, played)
            if number:  # the first round warms up
                results[name].append(result)
                print(f"{name:>8}: {result.rate:7.0f} tokens/s, {result.prefilled} tokens prefilled", flush=True)
    ratios = [e.rate / g.rate for e, g in zip(results["engine"], results["generate"], strict=True)]
    of_cpu = [g.cpu_seconds / e.cpu_seconds for e, g in zip(results["engine"], results["generate"], strict=True)]
    report = {
        "model": args.model,
        "parameters": sum(p.numel() for p in policy.net.parameters()),
        "turns": TURNS,
        "groups": args.groups,
        "episodes_a_group": args.size,
        "generated_tokens": results["engine"][0].generated,
        "longest_conversation": max(sum(map(len, [*c.prompts, *c.replies])) for c in played),
        "tokens_per_s": {name: [round(r.rate, 1) for r in runs] for name, runs in results.items()},
        "prefilled_tokens": {name: runs[0].prefilled for name, runs in results.items()},
        "ratios": [round(ratio, 3) for ratio in ratios],
        "median_ratio": round(statistics.median(ratios), 3),
        "cpu_time_ratios": [round(ratio, 3) for ratio in of_cpu],
        "median_cpu_time_ratio": round(statistics.median(of_cpu), 3),
        "load_average": round(os.getloadavg()[0], 2),
        "machine": {"cpu": cpu(), "threads": args.threads, "python": platform.python_version()},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "commit": commit()},
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "rollout.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.out / "rollout.md").write_text(markdown(report, results))
    print((args.out / "rollout.md").read_text())


def markdown(report: dict, results: dict[str, list[Result]]) -> str:  # type: ignore[type-arg]
    machine, versions = report["machine"], report["versions"]
    lines = [
        "# Rollouts: the `transformers` engine against `model.generate` turn by turn",
        "",
        f"{report['groups']} groups of {report['episodes_a_group']} episodes, {TURNS} turns each, scripted replies "
        f"({report['generated_tokens']} tokens; the longest conversation has {report['longest_conversation']}). Model "
        f"`{report['model']}` ({report['parameters']:,} parameters, float32), {len(report['ratios'])} runs in turn.",
        "",
        "| | generated tokens/s, median | lowest – highest | prefilled tokens |",
        "|---|---|---|---|",
    ]
    for name, runs in results.items():
        rates = [run.rate for run in runs]
        lines.append(
            f"| {name} | {statistics.median(rates):.0f} | {min(rates):.0f} – {max(rates):.0f} | {runs[0].prefilled} |"
        )
    lines += [
        "",
        f"**Median ratio: {report['median_ratio']:.2f}×** (runs: {', '.join(f'{r:.2f}' for r in report['ratios'])}); "
        f"by processor time {report['median_cpu_time_ratio']:.2f}×. Load average {report['load_average']}.",
        "",
        f"Machine: {machine['cpu']}, {machine['threads']} thread(s), Python {machine['python']}, torch "
        f"{versions['torch']}, transformers {versions['transformers']}, commit {versions['commit']}.",
        "",
        "Command: `python scripts/bench_rollout.py`. `generate` computes no log-probs; the engine does.",
    ]
    return "\n".join(lines) + "\n"


def cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{name}, {os.cpu_count()} cores"


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    run_script(main)
