"""What a rollout is worth: advantages per row, log-probs under the three views, outcomes for the context provider.

Teacher log-probs are taken once an iteration under θ_old, in eval mode, at rollout temperature (the paper's timing;
module.py takes them anew at every optimizer step where that is asked for).
Reference log-probs are only computed when the objective uses them; old log-probs only when the iteration makes more
than one optimizer step (with one step they are the detached student's).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import chain
from operator import itemgetter

import torch
from torch import Tensor

from sdar_pl.batch import Row, collate, pack
from sdar_pl.environments.base import Environment
from sdar_pl.objectives import Advantage, LossInputs, Objective
from sdar_pl.policy import Policy
from sdar_pl.prompts import Prompter, TooLongError
from sdar_pl.runtime.ranks import all_gather, rank
from sdar_pl.skills.providers import ContextProvider
from sdar_pl.teachers import Teacher
from sdar_pl.types import Episode


def add_hindsight_contexts(
    context: ContextProvider, prompter: Prompter, environment: Environment, episodes: Sequence[Episode]
) -> None:
    """Let the context provider read the finished groups; the teacher's prompts follow, the student's stay.

    How long such a context gets is luck, so one over the limit does not stop the run: it is left out, with a word.
    """
    for episode in episodes:
        found = context.after(episode, [other for other in episodes if other.group == episode.group])
        if found != episode.context:
            episode.context = found
            try:
                prompter.reread(environment, episode)
            except TooLongError as error:
                warnings.warn(f"an episode goes without privileged context: {error}", stacklevel=2)
                episode.context = ""
                prompter.reread(environment, episode)


def set_advantages(rows: Sequence[Row], episodes: Sequence[Episode], advantage: Advantage) -> None:
    """Give every row its advantage.

    Whole groups are on one rank, so only an advantage of the ``whole_batch`` needs the rows of all (collective).
    """
    facts = [(episodes[row.episode].reward, row.group, row.episode) for row in rows]
    ranks, own = (all_gather(facts), rank()) if advantage.whole_batch else ([facts], 0)
    rewards = torch.tensor([reward for part in ranks for reward, _, _ in part], dtype=torch.float64)
    groups = torch.tensor([group for part in ranks for _, group, _ in part], dtype=torch.long)
    # Each rank numbers its episodes from 0: here they need numbers of their own.
    unique = [episode * len(ranks) + k for k, part in enumerate(ranks) for _, _, episode in part]
    numbers = torch.tensor(unique, dtype=torch.long)
    extra = step_anchors(rows, episodes) if advantage.needs_anchors else {}
    first = sum(map(len, ranks[:own]))
    values = advantage(rewards, groups, numbers, **extra)[first : first + len(rows)]
    for row, value in zip(rows, values.tolist(), strict=True):
        row.advantage = value


def update_context_provider(context: ContextProvider, episodes: Sequence[Episode]) -> None:
    """Let the context provider learn from the episodes of all ranks, in the same order on each (collective)."""
    # A task's data is its environment's own, of any kind and size: it stays here.
    own = [(e.group, e.index, replace(e.task, data=None), context.given(e.task), e.success) for e in episodes]
    heard = sorted(chain.from_iterable(all_gather(own)), key=itemgetter(0, 1))
    for _, _, task, given, success in heard:
        context.update(task, given, success)


def step_anchors(rows: Sequence[Row], episodes: Sequence[Episode]) -> dict[str, Tensor]:
    """For step-level advantages: a number for the state each row's turn started from, and the turn's own reward."""
    seen: dict[tuple[int, str], int] = {}
    anchors, rewards = [], []
    for row in rows:
        episode, number = episodes[row.episode], row.turns[0]
        before = episode.turns[number - 1].observation if number else episode.first
        anchors.append(seen.setdefault((row.group, before.text), len(seen)))
        rewards.append(episode.turns[number].reward)
    return {"anchors": torch.tensor(anchors), "step_rewards": torch.tensor(rewards, dtype=torch.float64)}


def shape_iteration(objective: Objective, rows: Sequence[Row], step: int) -> None:
    """Token advantages that depend on several rows of an iteration (AgentOPSD, GRSD), from their old log-probs."""
    batch = collate(rows)
    assert batch.old_logprobs is not None
    shaped = objective.shape(
        LossInputs(
            student_logprobs=batch.old_logprobs,
            old_logprobs=batch.old_logprobs,
            teacher_logprobs=batch.teacher_logprobs,
            mask=batch.mask,
            advantages=batch.advantages,
            turns=batch.turns,
            episodes=batch.episodes,
            groups=batch.groups,
            iteration=step,
        )
    )
    for row, values in zip(rows, shaped.tolist(), strict=True):
        row.shaped = values[: len(row.positions)]


def score(
    policy: Policy,
    rows: Sequence[Row],
    *,
    budget: int,
    temperature: float,
    teacher: Teacher | None,
    old: bool,
    reference: bool,
    top_k: int = 0,
) -> None:
    """Fill the rows' ``teacher`` (of that teacher), ``old`` and ``reference`` log-probs, and with ``top_k`` that
    teacher's likeliest tokens with their log-probs.

    ``budget``: padded tokens a micro-batch. A row without teacher tokens has no privileged context: its teacher reads
    what the student reads. The policy is ``Policy.whole()``: whole on every rank.
    """
    with policy.evaluating():
        if old:
            _fill(policy, rows, rows, "old_logprobs", budget, temperature)
        if teacher is not None:
            readings = [row.as_teacher() for row in rows]
            _fill(policy, rows, readings, "teacher_logprobs", budget, temperature, teacher.view(policy), top_k=top_k)
        if reference:
            _fill(policy, rows, rows, "reference_logprobs", budget, temperature, policy.reference())


def _fill(
    policy: Policy,
    rows: Sequence[Row],
    readings: Sequence[Row],
    name: str,
    budget: int,
    temperature: float,
    view: AbstractContextManager[None] | None = None,
    top_k: int = 0,
) -> None:
    where = {id(reading): row for reading, row in zip(readings, rows, strict=True)}
    with view or contextlib.nullcontext():
        for chunk in pack(readings, budget):
            batch = collate(chunk)
            found = policy.logprobs(batch.to(policy.device), temperature=temperature, top=top_k or None)
            for reading, value in zip(chunk, found.values.tolist(), strict=True):
                setattr(where[id(reading)], name, value[: len(reading.positions)])
            if found.top is not None and found.top_tokens is not None:
                for reading, tokens, top in zip(chunk, found.top_tokens.cpu(), found.top.cpu(), strict=True):
                    row, count = where[id(reading)], len(reading.positions)
                    row.top_tokens, row.teacher_top = tokens[:count].clone(), top[:count].clone()  # without padding
