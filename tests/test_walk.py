"""One sampled token from the engine to its gate, by the stops of docs/architecture.md, in their order."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from helpers import ROOT
from helpers.worlds import Echo

from sdar_pl.batch import micro_batches, rows_of
from sdar_pl.engines import Sampling, TransformersEngine
from sdar_pl.objectives import SDAR, GroupAdvantage
from sdar_pl.policy import Policy
from sdar_pl.prompts import Prompter
from sdar_pl.rollout import PlayRules, play
from sdar_pl.sampling.budget import Budget
from sdar_pl.sampling.slots import EpisodeSlot
from sdar_pl.scoring import score
from sdar_pl.teachers import Current

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
WALK = PAGE.split("## One token")[1].split("\n## ")[0]


def test_every_stop_exists() -> None:
    stops = re.findall(r"^\| \d+ \| `([\w/]+\.py)` \| `([\w.]+)` \|", WALK, re.MULTILINE)
    assert len(stops) >= 10
    for file, function in stops:
        text = (ROOT / "sdar_pl" / file).read_text(encoding="utf-8")
        owner, _, method = function.rpartition(".")
        assert re.search(rf"^ *def {method}\(|^class {method}\b|^{method}\b", text, re.MULTILINE), (file, function)
        assert not owner or re.search(rf"^class {owner}\b", text, re.MULTILINE), (file, function)


@pytest.mark.parametrize("history", ["conversation", "windowed"])
def test_the_walk(history: str, make_policy: Callable[..., Policy]) -> None:
    policy, world, objective = make_policy(), Echo(turns=2), SDAR(coefficient=1.0, beta=5.0)
    engine, prompter = TransformersEngine(), Prompter(history=history)  # type: ignore[arg-type]
    prompter.bind(policy.tokenizer)
    task = world.tasks("train")[0]
    slots = [EpisodeSlot(task, 0, i, i, (7, i), context="go to shelf 2 first") for i in range(2)]
    with policy.whole():
        engine.sync(policy)
        episodes = play(world, slots, engine, prompter, Sampling(max_new_tokens=6), PlayRules())
        # The third response token of the second turn of the first episode:
        turn = episodes[0].turns[1]
        token, engine_logprob = turn.response[2], turn.logprobs[2]
        rows = [row for i, episode in enumerate(episodes) for row in rows_of(episode, i, history)]
        row, j = (rows[0], len(episodes[0].turns[0].response) + 2) if history == "conversation" else (rows[1], 2)
        assert row.tokens[row.positions[j]] == token
        assert row.teacher_tokens[row.teacher_positions[j]] == token
        assert row.turns[j] == 1
        assert row.engine_logprobs[j] == engine_logprob
        score(
            rows,
            episodes,
            policy=policy,
            objective=objective,
            advantage=GroupAdvantage(),
            teacher=Current(),
            with_old=False,
            temperature=1.0,
            budget=Budget(500),
            iteration=0,
        )
    assert row.teacher_logprobs is not None
    (batch,), _ = micro_batches(rows, step_of={0: 0}, steps=1, budget=10_000, pad=0, with_teacher=False, shared=False)
    b = next(b for b in range(len(rows)) if batch.tokens[b, : len(row.tokens)].tolist() == row.tokens)
    assert batch.tokens[b, batch.positions[b, j]] == token
    student = policy.logprobs(batch).values
    inputs = batch.loss_inputs(student, iteration=0)
    assert inputs.student_logprobs[b, j].item() == pytest.approx(engine_logprob, abs=1e-4)
    gap = row.teacher_logprobs[j] - student[b, j].item()
    outputs = objective(inputs)
    assert outputs.tokens["gap"][b, j].item() == pytest.approx(gap, abs=1e-6)
    gate = torch.sigmoid(torch.tensor(5.0 * gap)).item()
    assert outputs.tokens["gate"][b, j].item() == pytest.approx(gate, abs=1e-6)
    # Raising this token's log-prob lowers the loss by g/Σm, beside the policy loss and its advantage.
    alone = replace(inputs, advantages=torch.zeros_like(inputs.advantages))
    (gradient,) = torch.autograd.grad(objective(alone).loss, student)
    assert gradient[b, j].item() == pytest.approx(-gate / batch.mask.sum().item(), rel=1e-5)
