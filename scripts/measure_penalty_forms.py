"""What an invalid action should cost: four forms of the penalty, on a policy that often breaks the format.

The packaged policy almost never breaks the format. This script teaches it to forget the closing tag: supervised
learning on its own episodes, of whose responses a given share lacks ``</action>``. GRPO then trains that policy by the
quickstart's recipe, with each form and seed:

- turn: the tokens of the invalid turn have A − p, A being of the environment's rewards (the product's form);
- row: rewards less p on the invalid turn, standardised over all turns of the group (the reference code's form);
- episode: rewards less p for each invalid turn of the episode, standardised over episodes;
- none: p = 0.

Run: python scripts/measure_penalty_forms.py [--share 0.15] [--seeds 5] [--iterations 8] [--out runs/penalty]
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdar_pl import cli, scoring
from sdar_pl.batch import Row, collate, rows_of
from sdar_pl.engines import Sampling, TransformersEngine
from sdar_pl.environments.household import Household
from sdar_pl.modeling.sources import ASSETS
from sdar_pl.objectives.group_statistics import group_advantages
from sdar_pl.policy import Policy
from sdar_pl.prompts import Prompter
from sdar_pl.rollout import EpisodeSlot, PlayRules, play
from sdar_pl.skills.providers import SkillContext
from sdar_pl.types import Episode

RECIPE = Path(__file__).parent.parent / "configs"
COLUMNS = ("train/valid_action", "train/success", "val/success")
SetAdvantages = Callable[[Sequence[Row], Sequence[Episode], Any], None]


def by_row(rows: Sequence[Row], episodes: Sequence[Episode], _: Any) -> None:
    """Rewards less the turn's own penalty, standardised over the turns of the group."""
    places = [(row, turn) for row in rows for turn in dict.fromkeys(row.turns)]
    rewards = [episodes[row.episode].reward - episodes[row.episode].turns[turn].penalty for row, turn in places]
    groups, numbers = torch.tensor([row.group for row, _ in places]), torch.arange(len(places))
    values = group_advantages(torch.tensor(rewards), groups, numbers, unit="row").tolist()
    of_turn = {(id(row), turn): value for (row, turn), value in zip(places, values, strict=True)}
    for row in rows:
        row.advantages = [of_turn[id(row), turn] for turn in row.turns]


def by_episode(rows: Sequence[Row], episodes: Sequence[Episode], _: Any) -> None:
    """Rewards less all penalties of the episode, standardised over the episodes of the group."""
    rewards = torch.tensor([episodes[row.episode].reward - episodes[row.episode].penalty for row in rows])
    groups, numbers = torch.tensor([row.group for row in rows]), torch.tensor([row.episode for row in rows])
    for row, value in zip(rows, group_advantages(rewards, groups, numbers).tolist(), strict=True):
        row.advantages = [value] * len(row.positions)


FORMS: dict[str, SetAdvantages] = {
    "turn": scoring.set_advantages,
    "row": by_row,
    "episode": by_episode,
    "none": scoring.set_advantages,
}


def careless(folder: Path, share: float, episodes: int = 192, passes: int = 3) -> None:
    """Write the packaged policy, taught to leave out the closing tag in a ``share`` of its responses."""
    household, policy, prompter, rng = Household(size="tiny"), Policy("tiny-household"), Prompter(), random.Random(0)
    engine, skills = TransformersEngine(), SkillContext()
    torch.manual_seed(0)
    policy.build()
    prompter.bind(policy.tokenizer)
    engine.sync(policy)
    closing = policy.tokenizer.convert_tokens_to_ids("</action>")
    tasks = household.tasks("train")
    slots = [EpisodeSlot(tasks[-1 - n], n, 0, n, (n,), skills.provide(tasks[-1 - n])) for n in range(episodes)]
    with policy.whole():
        played = play(household, slots, engine, prompter, Sampling(1.0, max_new_tokens=24), PlayRules(max_turns=12))
    rows = []
    for n, episode in enumerate(played):
        turns, episode.turns = episode.turns, []
        for turn in turns:
            turn.prompt, turn.teacher_prompt = prompter.prompts(household, episode)
            if rng.random() < share:
                turn.response = [token for token in turn.response if token != closing]
                turn.logprobs = turn.logprobs[: len(turn.response)]
            episode.turns.append(turn)
        rows += rows_of(episode, n, "conversation")
    optimizer = torch.optim.AdamW((weight for _, weight in policy.trained()), lr=1e-4)
    for _ in range(passes):
        rng.shuffle(rows)
        for start in range(0, len(rows), 8):
            batch = collate(rows[start : start + 8])
            (-(policy.logprobs(batch).values * batch.mask).sum() / batch.mask.sum()).backward()
            optimizer.step()
            optimizer.zero_grad()
    shutil.copytree(ASSETS / "tiny-household", folder, dirs_exist_ok=True)
    policy.net.save_pretrained(folder)


def train(model: Path, form: str, seed: int, iterations: int, out: Path) -> dict[str, float]:
    """Train with a form → the figures of the last iteration."""
    scoring.set_advantages = FORMS[form]
    run = out / f"{form}-{seed}"
    options = {
        "config": RECIPE / "quickstart.yaml",
        "config+": RECIPE / "objectives" / "grpo.yaml",
        "model.policy.model": model,
        "data.play.invalid_penalty": 0 if form == "none" else 0.1,
        "seed_everything": seed,
        "trainer.max_epochs": iterations,
        "trainer.check_val_every_n_epoch": iterations,
        "trainer.default_root_dir": run,
        "run": "run",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name.rstrip('+')}", str(value))]
    if status := cli.main(["fit", *arguments]):
        raise SystemExit(status)
    with (run / "run" / "metrics.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    return {name: float(last[name]) for name in COLUMNS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=0.15)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS)
    parser.add_argument("--out", type=Path, default=Path("runs/penalty"))
    args = parser.parse_args()
    done: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        careless(Path(folder), args.share)
        for seed in range(args.seeds):
            for form in args.forms:
                done[f"{form}-{seed}"] = train(Path(folder), form, seed, args.iterations, args.out)
                (args.out / "penalty.json").write_text(json.dumps(done, indent=1))
    print("| form | " + " | ".join(COLUMNS) + " |\n| --- |" + " --: |" * len(COLUMNS))
    for form in args.forms:
        means = [np.mean([done[f"{form}-{seed}"][name] for seed in range(args.seeds)]) for name in COLUMNS]
        print(f"| {form} | " + " | ".join(f"{100 * mean:.1f}" for mean in means) + " |")


if __name__ == "__main__":
    main()
