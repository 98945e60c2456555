"""SDAR's gate σ(βΔ) against the centred σ(βΔ) − ½ on real rollouts: how much less variance has the same mean gradient?

For every episode that the policy plays (temperature 1, no skills; the teacher reads them) the gradient of the gated
likelihood, summed over its tokens, is taken under both gates. Printed: the ratio of their variances (traces of the
covariance over episodes, 95 % bootstrap interval), and how far the mean gradients are apart, in units of what chance
alone makes of it (about 1 if the expectations are equal: the three conditions of sdar_pl/objectives/gates.py hold,
as gradients are summed, tokens are fresh and every group counts).

Run: python scripts/measure_gate_variance.py [--episodes 384] [--ckpt_path runs/quickstart/checkpoints/last.ckpt]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import run_script

from sdar_pl.batch import collate, rows_of
from sdar_pl.engines import Sampling, TransformersEngine
from sdar_pl.environments.household import Household
from sdar_pl.policy import LoRA, Policy
from sdar_pl.prompts import Prompter
from sdar_pl.rollout import EpisodeSlot, PlayRules, play
from sdar_pl.runtime.checkpoint_files import newest_good, read_checkpoint
from sdar_pl.runtime.messages import PlainParser
from sdar_pl.sampling.budget import Budget
from sdar_pl.scoring import set_teacher_logprobs
from sdar_pl.skills.providers import SkillContext
from sdar_pl.teachers import Current


def gradients(policy: Policy, episodes: int, beta: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients [episodes, parameters] under the raw and the centred gate, and all gaps Δ [tokens]."""
    household, skills, prompter = Household(size="tiny"), SkillContext(), Prompter()
    prompter.bind(policy.tokenizer)
    engine = TransformersEngine()
    engine.sync(policy)
    tasks = household.tasks("train")
    chosen = [tasks[int(i)] for i in np.random.default_rng(seed).choice(len(tasks), episodes, replace=False)]
    slots = [EpisodeSlot(task, n, 0, n, (seed, n), skills.provide(task)) for n, task in enumerate(chosen)]
    with policy.whole():
        played = play(household, slots, engine, prompter, Sampling(1.0, max_new_tokens=24), PlayRules(max_turns=12))
        rows = [row for n, episode in enumerate(played) for row in rows_of(episode, n, "conversation")]
        set_teacher_logprobs(rows, policy, Current(), temperature=1.0, budget=Budget(16384))
    weights = [parameter for _, parameter in policy.trained()]
    found: list[list[np.ndarray]] = [[], []]
    gaps = []
    for row in rows:
        batch = collate([row])
        student = policy.logprobs(batch).values
        assert batch.teacher_logprobs is not None
        gap = (batch.teacher_logprobs - student).detach() * batch.mask
        gaps.append(gap[batch.mask.bool()].numpy())
        gate = torch.sigmoid(beta * gap) * batch.mask
        for kept, weight in zip(found, (gate, gate - 0.5 * batch.mask), strict=True):
            parts: Any = torch.autograd.grad(-(weight * student).sum(), weights, retain_graph=kept is found[0])
            kept.append(torch.cat([part.flatten() for part in parts]).numpy().astype(np.float32))
    return np.stack(found[0]), np.stack(found[1]), np.concatenate(gaps)


def variance(values: np.ndarray) -> np.ndarray:
    """Squared distances [episodes] of the rows from their mean: their sum is (n − 1) × the trace of the covariance."""
    squared: np.ndarray = ((values - values.mean(0)) ** 2).sum(1)
    return squared


def measure(policy: Policy, episodes: int = 384, beta: float = 5.0, seed: int = 0) -> dict[str, Any]:
    """Ratio of variances with its interval, distance of the means, and the gaps' mean and spread."""
    raw, centred, gaps = gradients(policy, episodes, beta, seed)
    above, below, noise = variance(raw), variance(centred), raw - centred
    draws = np.random.default_rng(0).integers(0, episodes, (2000, episodes))
    ratios = above[draws].sum(1) / below[draws].sum(1)
    return {
        "ratio": float(above.sum() / below.sum()),
        "interval": [float(bound) for bound in np.quantile(ratios, [0.025, 0.975])],
        "apart": float((noise.mean(0) ** 2).sum() / (variance(noise).sum() / (episodes - 1) / episodes)),
        "gap_mean": float(gaps.mean()),
        "gap_rms": float(np.sqrt((gaps**2).mean())),
        "tokens": len(gaps),
    }


def main() -> None:
    parser = PlainParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=384)
    parser.add_argument("--beta", type=float, default=5.0)
    parser.add_argument("--ckpt_path", help="of the quickstart; without it the untrained policy")
    args = parser.parse_args()
    torch.manual_seed(0)  # adapters begin at random
    policy = Policy("tiny-household", lora=LoRA())
    policy.build()
    if args.ckpt_path:
        known = read_checkpoint(newest_good(Path(args.ckpt_path)))["state_dict"]
        policy.load_state_dict({name.removeprefix("policy."): value for name, value in known.items()}, strict=False)
    found = measure(policy, args.episodes, args.beta)
    low, high = found["interval"]
    print(f"{args.ckpt_path or 'untrained'}, {args.episodes} episodes, {found['tokens']} tokens, β = {args.beta:g}")
    print(f"variance raw / centred   {found['ratio']:.2f} [{low:.2f}, {high:.2f}]")
    print(f"means apart              {found['apart']:.2f} × chance")
    print(f"gap                      mean {found['gap_mean']:+.3f}, root mean square {found['gap_rms']:.3f}")


if __name__ == "__main__":
    run_script(main)
