"""What a rollout is worth: the advantage and the log-probs of every response token.

Teacher log-probs are computed once an iteration, under the weights that rolled out (θ_old), in eval mode and at the
rollout's temperature: the paper's timing. module.py computes them at every optimizer step instead where
``model.teacher_refresh`` is "step".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from sdar_pl.batch import Row, collate
from sdar_pl.errors import UserError
from sdar_pl.modeling.logprobs import LogProbs
from sdar_pl.modeling.prefix_tree import pack
from sdar_pl.objectives import Advantage, Objective
from sdar_pl.policy import Policy
from sdar_pl.runtime.finite import blame
from sdar_pl.runtime.ranks import all_gather, rank
from sdar_pl.sampling.budget import Budget
from sdar_pl.teachers import Teacher
from sdar_pl.types import Episode

#: Where rows share prefixes, a pass without gradient takes so many times an update's tokens. It keeps nothing for
#: backward; and a group that an update reads at once is read at once here too, where the teacher's prompt is longer.
SHARING = 2


def score(
    rows: Sequence[Row],
    episodes: Sequence[Episode],
    *,
    learning: Sequence[Row] | None = None,
    policy: Policy,
    objective: Objective,
    advantage: Advantage,
    teacher: Teacher | None,
    with_old: bool,
    temperature: float,
    budget: Budget,
    iteration: int,
) -> None:
    """Fill in the rows' advantages and log-probs. Belongs inside ``Policy.whole()``; collective.

    1. Advantages from the episodes' rewards.
    2. Log-probs: old (``with_old``), teacher's and reference's (where the objective uses them).
    3. Advantages again, token by token, where the objective shapes them over the whole iteration.

    Args:
        rows: the iteration's rows on this rank.
        episodes: the iteration's episodes on this rank; ``Row.episode`` indexes them.
        learning: those that the policy loss learns from; the others keep the advantage 0 (None: all).
        policy: the weights that rolled out.
        objective: decides which log-probs are needed.
        advantage: rewards → advantages.
        teacher: the teacher, or None where it reads at every optimizer step instead.
        with_old: compute old log-probs. An iteration of one optimizer step needs none: they are the detached
            student's.
        temperature: temperature of the rollout.
        budget: of one forward pass (``pack``).
        iteration: number of the iteration, for schedules.
    """
    learning = rows if learning is None else learning
    set_advantages(learning, episodes, advantage)
    if with_old or objective.shapes_iteration:
        set_old_logprobs(rows, policy, temperature, budget)
    if teacher is not None and objective.reads_teacher(iteration):
        set_teacher_logprobs(rows, policy, teacher, temperature, budget, top_k=objective.teacher_top_k)
    if objective.needs_reference:
        set_reference_logprobs(rows, policy, temperature, budget)
    if objective.shapes_iteration and learning:
        shape_advantages(learning, episodes, objective, iteration)


# ---------------------------------------------------------------------- advantages


def set_advantages(rows: Sequence[Row], episodes: Sequence[Episode], advantage: Advantage) -> None:
    """Give every row its advantage, the same at each of its tokens, and every invalid turn its penalty.

    A turn's penalty lowers the reward of the row that is this turn, where the advantage counts rows (``unit: row``, the
    reference code). Otherwise the advantage is of the environment's rewards, and the tokens of the invalid turn carry
    the penalty (objectives/advantages.py derives this form).

    Groups are whole on one rank, so that only an advantage over the ``whole_batch`` needs the rows of all ranks
    (collective).
    """
    in_reward = [advantage.unit == "row" and len(set(row.turns)) == 1 for row in rows]
    rewards_here = [
        (episode.training_reward - (episode.turns[row.turns[0]].penalty if lowered else 0.0), row.group, row.episode)
        for row, lowered in zip(rows, in_reward, strict=True)
        for episode in [episodes[row.episode]]
    ]
    ranks, own = (all_gather(rewards_here), rank()) if advantage.whole_batch else ([rewards_here], 0)
    rewards = torch.tensor([reward for part in ranks for reward, _, _ in part], dtype=torch.float64)
    groups = torch.tensor([group for part in ranks for _, group, _ in part], dtype=torch.long)
    # Each rank numbers its episodes from 0: interleaved, the numbers are unique over all ranks.
    unique = [episode * len(ranks) + k for k, part in enumerate(ranks) for _, _, episode in part]
    numbers = torch.tensor(unique, dtype=torch.long)
    extra = step_anchors(rows, episodes) if advantage.needs_anchors else {}
    if advantage.needs_stages:
        parts = [list(episodes[row.episode].parts.values()) for row in rows]
        extra["stage_rewards"] = torch.tensor(parts, dtype=torch.float64).reshape(len(rows), advantage.needs_stages)
    first = sum(map(len, ranks[:own]))
    values = advantage(rewards, groups, numbers, **extra)[first : first + len(rows)]
    for row, lowered, value in zip(rows, in_reward, values.tolist(), strict=True):
        turns = episodes[row.episode].turns
        row.advantages = [
            (value[turns[turn].stage] if advantage.needs_stages else value) - (0.0 if lowered else turns[turn].penalty)
            for turn in row.turns
        ]


def step_anchors(rows: Sequence[Row], episodes: Sequence[Episode]) -> dict[str, Tensor]:
    """For advantages over single turns (GiGPO): a number for the state before each row's turn, its reward and penalty.

    Two rows of a group have the same number where the observation before them reads the same.
    """
    numbers: dict[tuple[int, str], int] = {}
    anchors, rewards, penalties = [], [], []
    for row in rows:
        episode, turn = episodes[row.episode], row.turns[0]
        before = episode.turns[turn - 1].observation if turn else episode.first
        anchors.append(numbers.setdefault((row.group, before.text), len(numbers)))
        rewards.append(episode.turns[turn].reward)
        penalties.append(episode.turns[turn].penalty)
    values = {"step_rewards": rewards, "step_penalties": penalties}
    tensors = {name: torch.tensor(numbers, dtype=torch.float64) for name, numbers in values.items()}
    return {"anchors": torch.tensor(anchors), **tensors}


def shape_advantages(rows: Sequence[Row], episodes: Sequence[Episode], objective: Objective, iteration: int) -> None:
    """Token advantages that depend on several rows of an iteration (AgentOPSD, GRSD), from their old log-probs."""
    batch = collate(rows)
    assert batch.old_logprobs is not None
    success = torch.tensor([episodes[row.episode].success for row in rows])
    shaped = objective.shape(replace(batch.loss_inputs(batch.old_logprobs, iteration=iteration), success=success))
    for row, values in zip(rows, shaped.tolist(), strict=True):
        row.advantages = values[: len(row.positions)]


# ---------------------------------------------------------------------- log-probs


def set_old_logprobs(rows: Sequence[Row], policy: Policy, temperature: float, budget: Budget) -> None:
    """Old log-probs: the policy's own, before the first update of the iteration."""
    for row, logprobs in zip(rows, _forward("old", rows, policy, temperature, budget), strict=True):
        row.old_logprobs = logprobs.values.tolist()


def set_reference_logprobs(rows: Sequence[Row], policy: Policy, temperature: float, budget: Budget) -> None:
    """Reference log-probs: the same rows with the adapters off. Raises ``UserError`` without adapters."""
    with policy.reference():
        for row, logprobs in zip(rows, _forward("reference", rows, policy, temperature, budget), strict=True):
            row.reference_logprobs = logprobs.values.tolist()


def set_teacher_logprobs(
    rows: Sequence[Row], policy: Policy, teacher: Teacher, temperature: float, budget: Budget, top_k: int = 0
) -> None:
    """Teacher log-probs of the same responses after the teacher's prompt, and with ``top_k`` its likeliest tokens.

    The teacher of a row without privileged context reads what the student reads.
    """
    with teacher.view(policy):
        sequences = [row.as_teacher() for row in rows]
        found = _forward("teacher's", sequences, policy, temperature, budget, top_k)
        for row, logprobs in zip(rows, found, strict=True):
            row.teacher_logprobs = logprobs.values.tolist()
            row.top_tokens, row.teacher_top = logprobs.top_tokens, logprobs.top


def _forward(
    whose: str, rows: Sequence[Row], policy: Policy, temperature: float, budget: Budget, top_k: int = 0
) -> list[LogProbs]:
    """Log-probs of each row's response tokens, on the CPU and without padding; in eval mode, without gradient.

    Raises ``UserError`` for a log-prob that is not finite; ``whose`` log-probs they are, for its message.
    """
    results: dict[int, LogProbs] = {}
    read = partial(policy.logprobs, temperature=temperature, top=top_k or None)
    with policy.evaluating():
        tokens = budget.take(SHARING if policy.shares_prefixes else 1)
        for chunk in pack([row.tokens for row in rows], tokens, policy.shares_prefixes):
            batch = collate([rows[i] for i in chunk]).to(policy.device)
            values, _, top, top_tokens = budget.read(read, batch)
            values = values.cpu()
            if not values.isfinite().all():
                raise UserError(
                    f"model.policy: {whose} log-probs are not finite: {blame(policy)}; use weights that are, or go on "
                    "from an earlier checkpoint with a lower learning rate"
                )
            top, top_tokens = (None if part is None else part.cpu() for part in (top, top_tokens))
            for place, i in enumerate(chunk):
                real = (place, slice(len(rows[i].positions)))
                results[i] = LogProbs(
                    values[real],
                    top=None if top is None else top[real].clone(),
                    top_tokens=None if top_tokens is None else top_tokens[real].clone(),
                )
    return [results[i] for i in range(len(rows))]
