"""The warm-ups of configs/warmup imitate what the packaged policies have learnt.

tiny_policies.json was recorded with the script that made the packaged policies: a hash of tokens and weights of single
demonstrations, and the losses on responses of four steps of four demonstrations from random weights.
"""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
import tiny_start
import torch
import yaml
from helpers import CONFIGS
from helpers.runs import metrics, run_here

from scripts import tiny_optimizer, tiny_worlds
from sdar_pl.environments.household import Household
from sdar_pl.modeling.sources import ASSETS, load_tokenizer
from sdar_pl.prompts import Prompter
from sdar_pl.skills.providers import SkillContext

RECORDED = json.loads(Path(__file__).with_name("tiny_policies.json").read_text())
#: environment → options that put a source behind its first iterations
LATER = {"household": {"small_from": 0}, "household_macros": {"small_from": 0}, "webshop": {}, "search_qa": {"easy": 0}}


def tokenizer_of(name: str) -> Any:
    return load_tokenizer(str(ASSETS / f"tiny-{name.removesuffix('_macros').replace('_', '-')}"))


@pytest.mark.parametrize("name", RECORDED)
def test_the_demonstrations_are_the_recorded_ones(name: str) -> None:
    data = yaml.safe_load((CONFIGS / "warmup" / f"{name}.yaml").read_text())["data"]
    slot = data["demonstrations"]
    prompter = Prompter(**data["prompter"])
    prompter.bind(tokenizer_of(name))
    context = SkillContext(**data["context"]["init_args"])

    def source(**options: Any) -> Any:
        made = getattr(tiny_worlds, slot["class_path"].split(".")[-1])(**{**slot["init_args"], **options})
        # Its worlds are its own; this one only has players.
        made.bind(prompter, Household(size="tiny"), "train", context, data["play"]["max_turns"])
        return made

    later, easy = source(**LATER[name]), source(**dict.fromkeys(LATER[name], 1))
    for example in RECORDED[name]["examples"]:
        played = (easy if example["easy"] else later).play(random.Random(example["seed"]), 0)
        (row,) = played.rows(0, "conversation", data["prompt_weight"])
        weights = [0.0] * len(row.tokens)
        weights[0] = 0.3  # nothing predicts the first token; the script has recorded a weight for it
        for position, weight in zip(row.positions, row.advantages, strict=True):
            weights[position] = weight
        assert len(row.tokens) == example["tokens"]
        digest = hashlib.sha256(json.dumps([row.tokens, [round(w, 4) for w in weights]]).encode()).hexdigest()
        assert digest[:16] == example["digest"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, recorded in RECORDED.items() if "losses" in recorded])
def test_a_warm_up_has_the_recorded_losses(name: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(name)
    torch.manual_seed(0)
    tiny_start.make_model(tokenizer, hidden=64, layers=2).save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    later = [f"--data.demonstrations.init_args.{key}={value}" for key, value in LATER[name].items()]
    config, start = CONFIGS / "warmup" / f"{name}.yaml", tmp_path / "start"
    run = run_here(
        *["warmup", "--config", str(config), "--model.policy.model", str(start)],
        *["--trainer.max_epochs", "4", "--data.tasks_per_iteration", "4", "--data.steps_per_iteration", "1"],
        *["--trainer.limit_val_batches", "0", "--trainer.default_root_dir", str(tmp_path), *later],
    )
    losses = [row["loss/response"] for row in metrics(run)]
    assert losses == pytest.approx(RECORDED[name]["losses"], abs=2e-4)


def test_two_optimizers_are_one(tmp_path: Path) -> None:
    """Also after their state was saved and loaded."""

    def weights() -> list[torch.nn.Parameter]:
        generator = torch.Generator().manual_seed(0)
        return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 3), (64, 4), (5,))]

    def step(optimizer: Any, trained: list[torch.nn.Parameter], number: int) -> None:
        for weight in trained:
            weight.grad = (weight.detach() + number).cos()
        optimizer.step()

    ours, saved = weights(), weights()
    optimizer = tiny_optimizer.MuonAdamW(ours, lr=4e-3, weight_decay=0.05)
    matrices, rest = (theirs := weights())[:1], theirs[1:]
    parts = [
        torch.optim.Muon(matrices, lr=4e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=4e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    resumed = tiny_optimizer.MuonAdamW(saved, lr=4e-3, weight_decay=0.05)
    for number in range(4):
        if number == 2:
            torch.save(optimizer.state_dict(), tmp_path / "state.pt")
            resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
            for weight, other in zip(saved, ours, strict=True):
                weight.data = other.data.clone()
        step(optimizer, ours, number)
        step(parts[0], matrices, number)
        step(parts[1], rest, number)
        if number >= 2:
            step(resumed, saved, number)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(ours, saved, strict=True))
