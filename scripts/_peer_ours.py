"""Ours in bench_peers.py: module, datamodule and Trainer.

Arguments: name, model folder, case, groups, iterations; or name, model folder, case, "frozen", folder of the results.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from _peers import CASES, CONTEXT, GROUP, Case, Clock, frozen, reward, text

from sdar_pl import datamodule
from sdar_pl.batch import Row, collate
from sdar_pl.engines import Sampling, TransformersEngine
from sdar_pl.environments.base import Environment, Session
from sdar_pl.module import SDARModule
from sdar_pl.objectives import GRPO, SDAR
from sdar_pl.policy import LoRA, Policy
from sdar_pl.prompts import Prompter
from sdar_pl.rollout import PlayRules
from sdar_pl.runtime.messages import quieten
from sdar_pl.sampling.budget import Budget
from sdar_pl.scoring import set_reference_logprobs
from sdar_pl.skills.providers import ContextProvider, NoContext
from sdar_pl.types import Observation, Task

#: tokens that the template puts around a group's prompt, and around an observation
OPENING, BETWEEN = 3, 4
#: options of the policy
FAST: dict[str, Any] = {"attention": "prefix_tree", "folded_lora": True}


class Endless(Policy):
    """No token ends a response: every reply has full length."""

    end_tokens = frozenset()  # type: ignore[assignment]


class Skills(ContextProvider):
    def provide(self, task: Task) -> str:
        return text(-1, CONTEXT)


class Fixed(Environment):
    """Messages of fixed length."""

    kinds = ("fixed",)

    def __init__(self, case: Case) -> None:
        self.case = case

    def tasks(self, split: str) -> Sequence[Task]:
        return [Task(str(number), "fixed", text(number, self.case.prompt - OPENING)) for number in range(256)]

    def session(self, task: Task) -> Session:
        return FixedSession(self.case)

    def parse(self, text: str) -> tuple[str, bool]:
        return text, True

    def opening(self, task: Task, first: Observation) -> str:
        return task.text

    def reply(self, observation: Observation) -> str:
        return observation.text

    def window(self, *_: Any, **__: Any) -> str:
        raise NotImplementedError


class FixedSession(Session):
    def __init__(self, case: Case) -> None:
        self.case, self.turn = case, 0

    def reset(self) -> Observation:
        return Observation("")

    def step(self, action: str) -> Observation:
        self.turn += 1
        if self.turn == self.case.turns:
            return Observation("", reward=reward(action), done=True)
        return Observation(text(self.turn, self.case.observation - BETWEEN))


class Ends(L.Callback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.clock.end()


def policy_of(name: str, model: str) -> Policy:
    """The policy of a contestant, with random weights."""
    torch.manual_seed(0)
    options = FAST if name.endswith("fast") else {}
    return Endless(model, LoRA(), random_weights=True, **options)


def train(name: str, policy: Policy, case: Case, groups: int, iterations: int, clock: Clock) -> Any:
    """Train for some iterations → the datamodule, which holds the last one."""
    sdar = name.startswith("sdar")
    objective = SDAR(reference_coefficient=0.01) if sdar else GRPO(reference_coefficient=0.01)
    module = SDARModule(policy, objective, partial(torch.optim.AdamW, lr=1e-5))
    data = datamodule.RolloutDataModule(
        policy,
        objective,
        Fixed(case),
        TransformersEngine(),
        Prompter(max_prompt_tokens=2048),
        Skills() if sdar else NoContext(),
        sampling=Sampling(max_new_tokens=case.reply),
        play=PlayRules(max_turns=case.turns, invalid_penalty=0.0),
        tasks_per_iteration=groups,
        group_size=GROUP,
        micro_batch_tokens=case.budget if name.endswith("fast") else 16384,
    )
    trainer = L.Trainer(
        max_epochs=iterations,
        accelerator="cpu",
        logger=False,
        callbacks=[Ends(clock)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        inference_mode=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
    )
    clock.start()
    trainer.fit(module, data)
    return data


def lengths(data: Any) -> list[int]:
    """Tokens of the rows of the datamodule's iteration."""
    return [int(n) for batch in data.iteration.batches for n in batch.attention.sum(1)]


def compare(name: str, model: str, case: Case, folder: Path) -> None:
    """Loss and gradient of a frozen group. ``ours`` writes the weights that all contestants read."""
    policy = policy_of(name, model)
    policy.build()
    if name == "ours":
        for key, weight in policy.trained():
            if "lora_B" in key:
                torch.nn.init.normal_(weight, std=0.02)
        torch.save(policy.net.state_dict(), folder / "weights.pt")
    policy.net.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    group, rows = frozen(case), []
    count = len(group.positions)
    for number, tokens in enumerate(group.rows):
        rows.append(Row(number, 0, tokens, group.positions, [0] * count, [0.0] * count))
        rows[-1].advantages = [group.advantages[number]] * count
    set_reference_logprobs(rows, policy, 1.0, Budget(16384))
    batch = collate(rows)
    logprobs = policy.logprobs(batch, entropy=True)
    inputs = batch.loss_inputs(logprobs.values, entropy=logprobs.entropy, iteration=0)
    loss = GRPO(reference_coefficient=0.01)(inputs).loss
    loss.backward()
    gradients = {key.removeprefix("net."): weight.grad for key, weight in policy.trained()}
    torch.save({"loss": loss.detach(), "gradients": gradients}, folder / f"{name}.pt")


def main() -> None:
    name, model, case_name, groups, last = sys.argv[1:]
    case = CASES[case_name]
    quieten()
    warnings.simplefilter("ignore")
    if groups == "frozen":
        return compare(name, model, case, Path(last))
    policy, clock = policy_of(name, model), Clock()
    train(name, policy, case, 1, 1, Clock())  # warms up
    for phase, part in (("rollout", "roll_out"), ("score", "score")):
        setattr(datamodule, part, clock.timed(phase, getattr(datamodule, part)))
    tokens = lengths(train(name, policy, case, int(groups), int(last), clock))
    print(json.dumps(clock.report(sum(tokens) / len(tokens))))
    return None


if __name__ == "__main__":
    main()
