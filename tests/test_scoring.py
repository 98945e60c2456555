"""Scoring: log-probs under the views, and all that an objective reads."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.builders import an_outcome
from helpers.models import shake
from helpers.worlds import Echo

from sdar_pl import objectives as O
from sdar_pl.batch import Batch, Row, collate, rows_of
from sdar_pl.engines import Sampling, TransformersEngine
from sdar_pl.errors import UserError
from sdar_pl.modeling.prefix_tree import PrefixTree
from sdar_pl.objectives.advantages import GroupAdvantage
from sdar_pl.policy import Policy
from sdar_pl.prompts import Prompter
from sdar_pl.rollout import EpisodeSlot, PlayRules, play
from sdar_pl.sampling.budget import Budget
from sdar_pl.scoring import (
    score,
    set_old_logprobs,
    set_reference_logprobs,
    set_teacher_logprobs,
)
from sdar_pl.teachers import Current, Teacher

MakePolicy = Callable[..., Policy]


def played(policy: Policy, history: Any, contexts: tuple[str, ...] = ("a skill", "")) -> list[Row]:
    """Rows of two groups, the first with privileged context."""
    prompter = Prompter(history=history)
    prompter.bind(policy.tokenizer)
    world, engine = Echo(turns=3), TransformersEngine()
    engine.sync(policy)
    tasks = world.tasks("train")
    slots = [
        EpisodeSlot(tasks[n // 2], n // 2, n % 2, n, (n,), context=contexts[n // 2]) for n in range(2 * len(contexts))
    ]
    episodes = play(world, slots, engine, prompter, Sampling(max_new_tokens=8), PlayRules())
    return [row for i, episode in enumerate(episodes) for row in rows_of(episode, i, history)]


def fill(
    policy: Policy,
    rows: list[Row],
    *,
    teacher: Teacher | None = None,
    old: bool = False,
    reference: bool = False,
    temperature: float = 1.0,
    tokens: int = 200,
    top_k: int = 0,
) -> None:
    budget = Budget(tokens)
    if old:
        set_old_logprobs(rows, policy, temperature, budget)
    if teacher:
        set_teacher_logprobs(rows, policy, teacher, temperature, budget, top_k)
    if reference:
        set_reference_logprobs(rows, policy, temperature, budget)


@pytest.mark.parametrize("history", ["conversation", "windowed"])
def test_scores_are_the_views_logprobs(make_policy: MakePolicy, history: Any) -> None:
    policy = make_policy()
    rows = played(policy, history)
    assert any(row.teacher_tokens for row in rows)
    assert not all(row.teacher_tokens for row in rows)
    random.Random(0).shuffle(rows)
    fill(policy, rows, teacher=Current(), old=True, reference=True, temperature=0.8)
    for row in rows:
        one = collate([row])
        with torch.no_grad():
            student = policy.logprobs(one, temperature=0.8)[0][0]
            with policy.reference():
                reference = policy.logprobs(one, temperature=0.8)[0][0]
            teacher = student
            if row.teacher_tokens:
                teacher = policy.logprobs(collate([row.as_teacher()]), temperature=0.8)[0][0]
                assert (teacher - student).abs().max() > 1e-3
        torch.testing.assert_close(torch.tensor(row.old_logprobs), student, atol=2e-5, rtol=0)
        torch.testing.assert_close(torch.tensor(row.teacher_logprobs), teacher, atol=2e-5, rtol=0)
        torch.testing.assert_close(torch.tensor(row.reference_logprobs), reference, atol=2e-5, rtol=0)
        assert (reference - student).abs().max() > 1e-3


def test_only_what_is_asked_for(make_policy: MakePolicy) -> None:
    policy = make_policy()
    rows = played(policy, "conversation")
    for name in ("teacher", "old", "reference"):
        fill(policy, rows, **{name: Current() if name == "teacher" else True})
        names = {
            n
            for row in rows
            for n in ("teacher_logprobs", "old_logprobs", "reference_logprobs")
            if getattr(row, n) is not None
        }
        assert names == {f"{name}_logprobs"}
        for row in rows:
            setattr(row, f"{name}_logprobs", None)


def test_a_teacher_without_context_is_the_student(make_policy: MakePolicy) -> None:
    """Gap exactly 0: the same batches give the same bits, in eval mode as in training."""
    policy = make_policy()
    rows = played(policy, "conversation", ("", ""))
    fill(policy, rows, teacher=Current(), old=True, tokens=10_000)
    assert all(row.teacher_logprobs == row.old_logprobs for row in rows)
    policy.train()
    batch = collate(sorted(rows, key=lambda row: -len(row.tokens)))
    student = policy.logprobs(batch).values
    assert batch.teacher_logprobs is not None
    assert torch.equal(student.detach(), batch.teacher_logprobs)


@pytest.mark.parametrize("budget", [1, 90, 100_000])
def test_the_budget_changes_nothing(make_policy: MakePolicy, budget: int) -> None:
    policy = make_policy()
    rows = played(policy, "conversation")
    fill(policy, rows, teacher=Current())
    before = [row.teacher_logprobs for row in rows]
    fill(policy, rows, teacher=Current(), tokens=budget)
    for row, values in zip(rows, before, strict=True):
        torch.testing.assert_close(torch.tensor(row.teacher_logprobs), torch.tensor(values), atol=2e-5, rtol=0)


def test_a_group_that_an_update_reads_at_once_is_scored_at_once(
    make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where rows share prefixes: the teacher's prompt makes the group longer than an update's micro-batch."""
    policy = make_policy(attention="prefix_tree")
    rows = [row for row in played(policy, "conversation", ("a skill " * 6,)) if row.as_teacher().tokens != row.tokens]
    student, teacher = (
        len(PrefixTree.of([row.tokens for row in group]).tokens) for group in (rows, [r.as_teacher() for r in rows])
    )
    assert len(rows) == 2
    assert student < teacher < 2 * student
    read, sizes = Budget.read, list[int]()

    def counted(self: Budget, forward: Any, batch: Batch) -> Any:
        sizes.append(len(batch.tokens))
        return read(self, forward, batch)

    monkeypatch.setattr(Budget, "read", counted)
    fill(policy, rows, teacher=Current(), tokens=student)
    assert sizes == [2]


def test_teacher_scores_belong_to_the_weights_of_their_time(make_policy: MakePolicy) -> None:
    policy = make_policy()
    rows = played(policy, "conversation")
    fill(policy, rows, teacher=Current())
    before = [row.teacher_logprobs for row in rows]
    shake(policy, seed=2)
    fill(policy, rows, teacher=Current())
    assert all(row.teacher_logprobs != values for row, values in zip(rows, before, strict=True))


@pytest.mark.parametrize("mode", [True, False])
def test_mode_and_gradient_are_restored(make_policy: MakePolicy, mode: bool) -> None:
    policy = make_policy()
    rows = played(policy, "conversation")
    policy.train(mode)
    fill(policy, rows, teacher=Current(), reference=True)
    assert policy.training is policy.causal_lm.training is mode
    assert torch.is_grad_enabled()
    assert any(p.requires_grad for p in policy.parameters())
    broken = [Row(0, 0, [999_999], [0], [0], [0.0])]
    with pytest.raises(IndexError):
        fill(policy, broken, old=True)
    assert policy.training is mode


@pytest.mark.parametrize("history", ["conversation", "windowed"])
def test_the_teachers_likeliest_tokens(make_policy: MakePolicy, history: Any) -> None:
    """Of the teacher's own reading, whatever the micro-batches; the student then looks at the same tokens."""
    policy = make_policy()
    rows = played(policy, history)
    fill(policy, rows, teacher=Current(), old=True, reference=True)
    plain = [(row.teacher_logprobs, row.old_logprobs, row.reference_logprobs) for row in rows]
    assert all(row.top_tokens is row.teacher_top is None for row in rows)
    fill(policy, rows, teacher=Current(), old=True, reference=True, top_k=5, temperature=0.8)
    for row in rows:
        reading = collate([row.as_teacher()])
        logits = policy.causal_lm(reading.tokens).logits[0].detach() / 0.8
        wanted = logits[reading.positions[0] - 1].log_softmax(-1).topk(5)
        assert row.top_tokens is not None
        assert row.teacher_top is not None
        assert torch.equal(row.top_tokens, wanted.indices)
        torch.testing.assert_close(row.teacher_top[:, :5], wanted.values, atol=2e-5, rtol=0)
        assert row.teacher_top.exp().sum(-1).tolist() == pytest.approx([1.0] * len(row.positions), abs=1e-5)
        student = policy.logprobs(collate([row]), temperature=0.8, top=row.top_tokens[None])
        assert student.top is not None
        assert student.top.requires_grad
        apart = (student.top[0].detach() - row.teacher_top).abs().max()
        assert apart > 1e-3 if row.teacher_tokens else apart < 2e-5
    fill(policy, rows, teacher=Current(), old=True, reference=True, top_k=5)
    assert [(row.teacher_logprobs, row.old_logprobs, row.reference_logprobs) for row in rows] == plain, (
        "they change nothing else"
    )


def test_reference_needs_adapters(make_policy: MakePolicy) -> None:
    policy = make_policy(lora=False)
    rows = played(policy, "conversation")
    with pytest.raises(UserError, match="adapters"):
        fill(policy, rows, reference=True)


# ---------------------------------------------------------------------- the whole of it


@pytest.mark.parametrize(
    ("objective", "with_old", "filled"),
    [
        (O.GRPO(), False, set()),
        (O.GRPO(), True, {"old"}),
        (O.GRPO(reference_coefficient=0.1), False, {"reference"}),
        (O.SDAR(), False, {"teacher"}),
        (O.SDAR(reference_coefficient=0.1), True, {"old", "teacher", "reference"}),
        (O.Objective(shaper=O.GRSDShaper()), False, {"old", "teacher"}),
    ],
)
@pytest.mark.parametrize("at_every_step", [True, False])
def test_an_objective_is_given_what_it_reads(
    make_policy: MakePolicy, objective: O.Objective, with_old: bool, filled: set[str], at_every_step: bool
) -> None:
    policy = make_policy()
    rows = played(policy, "conversation")
    episodes = [an_outcome(row.group, n, float(n % 2)) for n, row in enumerate(rows)]
    for episode in episodes:
        episode.turns *= 20  # at least the rows' turns
    teacher = None if at_every_step else Current()
    if at_every_step and objective.shapes_iteration:
        return  # refused by the module
    parts = {"policy": policy, "objective": objective, "advantage": GroupAdvantage(scale="none"), "teacher": teacher}
    score(rows, episodes, **parts, with_old=with_old, temperature=1.0, budget=Budget(200), iteration=0)  # type: ignore[arg-type]
    names = {
        n for n in ("old", "teacher", "reference") if any(getattr(row, f"{n}_logprobs") is not None for row in rows)
    }
    assert names == filled - ({"teacher"} if at_every_step else set())
    signs = {(row.episode, sign) for row in rows for sign in torch.tensor(row.advantages).sign().tolist()}
    assert signs == {(0, -1.0), (1, 1.0), (2, -1.0), (3, 1.0)}
    shaped = any(len(set(row.advantages)) > 1 for row in rows)
    assert shaped is objective.shapes_iteration, "only a shaper makes them differ within an episode"


@pytest.mark.parametrize("whose", ["old", "teacher's", "reference"])
def test_log_probs_that_are_not_finite_are_refused(whose: str, make_policy: MakePolicy) -> None:
    policy = make_policy()
    rows = played(policy, "windowed")
    name, weight = next(pair for pair in policy.named_parameters() if "layers.1.mlp" in pair[0])
    assert not weight.requires_grad, "of the base, which every view has"
    with torch.no_grad():
        weight[0, 0] = torch.nan
    options: dict[str, Any] = {"teacher": Current()} if whose == "teacher's" else {whose: True}
    expected = f"^model.policy: {whose} log-probs are not finite: weights are not finite \\({name}\\); "
    with pytest.raises(UserError, match=expected):
        fill(policy, rows, **options)
