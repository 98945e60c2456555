"""A micro-batch that does not fit into memory: its halves give the same log-probs, the same gradients, the same run."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.builders import a_row
from helpers.models import make_model, shake
from helpers.runs import fit_here, weights
from test_module import PLAIN
from torch import Tensor

from sdar_pl import datamodule
from sdar_pl.batch import Batch, collate
from sdar_pl.errors import UserError
from sdar_pl.modeling.logprobs import LogProbs
from sdar_pl.modeling.memory import update_bytes
from sdar_pl.policy import LoRA, Policy
from sdar_pl.sampling import fit_to_device
from sdar_pl.sampling.budget import Budget


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    folder = tmp_path_factory.mktemp("budget") / "qwen2"
    make_model(folder, "qwen2")
    made = Policy(str(folder), LoRA(r=4))
    made.build()
    shake(made, 0)
    return made


BATCH = collate([a_row(n, 60 - 5 * n, [(6, 11), (15, 18 + n)]) for n in range(5)])


class Full:
    """A forward pass for which memory is short: ``at`` names the passes (from 0), ``least`` the rows that never fit."""

    def __init__(self, policy: Policy, at: tuple[int, ...] = (), least: int = 99) -> None:
        self.policy, self.at, self.least = policy, at, least
        self.rows: list[int] = []

    def __call__(self, batch: Batch) -> LogProbs:
        self.rows.append(len(batch.tokens))
        found = self.policy.logprobs(batch, entropy=True, top=3)
        if len(self.rows) - 1 in self.at or len(batch.tokens) >= self.least:
            raise torch.OutOfMemoryError("injected")
        return found


def test_an_error_in_scoring_does_not_shrink_an_update(policy: Policy) -> None:
    """A pass without gradient may take twice the tokens; after an error it takes as many as an update."""
    budget = Budget(400)
    assert budget.take(2) == 800
    with pytest.warns(UserWarning, match="out of memory"):
        budget.read(Full(policy, at=(0,)), BATCH)
    assert (budget.take(2), budget.take()) == (400, 400)
    budget.read(Full(policy, at=(0,)), BATCH)
    assert (budget.take(2), budget.take()) == (200, 200)


class FullBackward(torch.autograd.Function):
    """The identity, whose backward is short of memory when ``short`` holds True."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, short: list[bool]) -> Tensor:
        ctx.short = short
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if ctx.short.pop():
            raise torch.OutOfMemoryError("injected")
        return gradient, None


def update(policy: Policy, budget: Budget, read: Callable[[Batch], LogProbs]) -> list[Tensor]:
    """Log-probs, and gradients after an earlier micro-batch and this one."""
    weights = [weight for _, weight in policy.trained()]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    found = budget.forward(read, BATCH)
    assert found.entropy is not None
    assert found.top is not None
    loss = ((found.values + 0.3 * found.entropy + found.top.sum(-1)) * BATCH.mask).square().sum()
    budget.backward(loss, weights)
    return [found.values.detach(), *(weight.grad for weight in weights if weight.grad is not None)]


def same(found: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours - theirs).norm() <= 1e-6 * (1 + theirs.norm())


def test_without_an_error_nothing_is_computed_twice(policy: Policy) -> None:
    weights = [weight for _, weight in policy.trained()]
    budget, read = Budget(1000), Full(policy)
    found = update(policy, budget, read)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    plain = policy.logprobs(BATCH, entropy=True, top=3)
    assert plain.entropy is not None
    assert plain.top is not None
    ((plain.values + 0.3 * plain.entropy + plain.top.sum(-1)) * BATCH.mask).square().sum().backward()
    assert all(torch.equal(*pair) for pair in zip(found[1:], [weight.grad for weight in weights], strict=True))
    assert (read.rows, budget.errors, budget.take()) == ([5], 0, 1000)


@pytest.mark.parametrize(
    ("short", "rows", "tokens"),
    [
        ({"at": (0,)}, [5, 3, 2, 3, 2], 500),  # forward
        ({"at": (0, 4)}, [5, 3, 2, 3, 2, 1, 1], 250),  # and, in backward, the second half
        ({"least": 2}, [5, 3, 2, 1, 1, 1, 2, 1, 1, 3, 2, 1, 1, 1, 2, 1, 1], 125),
    ],
)
def test_an_error_in_forward(policy: Policy, short: Any, rows: list[int], tokens: int) -> None:
    wanted = update(policy, Budget(1000), Full(policy))
    budget, read = Budget(1000), Full(policy, **short)
    with pytest.warns(UserWarning, match="out of memory in a micro-batch of 5 rows of 60 tokens"):
        same(update(policy, budget, read), wanted)
    assert sorted(read.rows) == sorted(rows)
    assert budget.errors >= 1
    assert budget.take() == tokens


@pytest.mark.parametrize("layer", [0, 1])
def test_an_error_in_the_middle_of_backward(policy: Policy, layer: int) -> None:
    """Some weights have their gradient by then, in which it may not be counted twice."""
    wanted = update(policy, Budget(1000), Full(policy))
    short = [False, False, True]
    part = policy.causal_lm.get_decoder().layers[layer]
    hook = part.register_forward_hook(lambda module, args, output: FullBackward.apply(output, short))
    budget = Budget(1000)
    try:
        with pytest.warns(UserWarning, match="halves"):
            same(update(policy, budget, Full(policy)), wanted)
    finally:
        hook.remove()
    assert not short
    assert (budget.errors, budget.take()) == (1, 500)


def test_an_error_in_scoring(policy: Policy) -> None:
    with policy.evaluating():
        wanted = policy.logprobs(BATCH, entropy=True, top=3)
        budget, read = Budget(1000), Full(policy, at=(0, 1))
        with pytest.warns(UserWarning, match="halves"):
            found = budget.read(read, BATCH)
    assert read.rows == [5, 3, 2, 1, 2]
    assert torch.equal(found.top_tokens, wanted.top_tokens)  # type: ignore[arg-type]
    same([found.values, found.entropy, found.top], [wanted.values, wanted.entropy, wanted.top])  # type: ignore[list-item]


def test_a_row_that_does_not_fit_ends_the_run(policy: Policy) -> None:
    for attempt in (Budget(1000).read, Budget(1000).forward):
        with (
            pytest.warns(UserWarning, match="halves"),
            pytest.raises(UserError, match="with one row of 60 tokens at a time; set model"),
        ):
            attempt(Full(policy, least=1), BATCH)


def test_a_run_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit_here(tmp_path / "whole", *PLAIN)
    real, calls = Policy.logprobs, []

    def short(self: Policy, batch: Batch, **options: Any) -> LogProbs:
        calls.append(len(batch.tokens))
        if torch.is_grad_enabled() and len(batch.tokens) > 1 and sum(n < 0 for n in calls) == 0:
            calls.append(-1)
            raise torch.OutOfMemoryError("injected")
        return real(self, batch, **options)

    monkeypatch.setattr(Policy, "logprobs", short)
    with pytest.warns(UserWarning, match="halves"):
        halved = fit_here(tmp_path / "halved", *PLAIN)
    (row,) = csv.DictReader((halved / "metrics.csv").open())
    assert float(row["memory/halved"]) == 1
    ours, theirs = weights(whole), weights(halved)
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-4, atol=1e-6)


AUTO = ["--data.micro_batch_tokens", "auto", "--data.engine.max_rows", "auto", "--trainer.max_epochs", "1"]


def test_auto_takes_what_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[tuple[int, int]] = []

    def fit(*parts: Any) -> None:
        fit_to_device.fit_to_device(*parts)
        chosen.append((parts[0].tokens, parts[1].max_rows))

    monkeypatch.setattr(datamodule, "fit_to_device", fit)
    ample = fit_here(tmp_path / "ample", *PLAIN, *AUTO)
    monkeypatch.setattr(fit_to_device, "free_bytes", lambda device: 200 * 2**20)
    scarce = fit_here(tmp_path / "scarce", *PLAIN, *AUTO)
    monkeypatch.setattr(fit_to_device, "free_bytes", lambda device: 2**20)
    fit_here(tmp_path / "none", *PLAIN, *AUTO, status=2)
    (tokens, rows), (fewer_tokens, fewer_rows) = chosen
    assert (tokens, rows) == (16384, 256)
    assert 1032 <= fewer_tokens < tokens
    assert fewer_rows <= rows
    ours, theirs = weights(ample), weights(scarce)
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-4, atol=1e-6)


def test_what_was_chosen_is_what_plan_foretells(policy: Policy) -> None:
    """The chosen rows fit by plan's arithmetic, and one row more does not."""
    skeleton = fit_to_device.skeleton_of(policy)
    for usable in (2**24, 2**25, 2**26):
        tokens = fit_to_device.fitting_tokens(policy, skeleton, 100, 30, 0, usable)

        def peak(rows: int) -> int:
            return update_bytes(
                skeleton.net, rows, 100, 30 * rows, chunk=512, checkpointing=False, precision=skeleton.precision
            ).peak

        assert 0.9 * usable <= peak(tokens // 100) <= 1.02 * usable
