"""Drawing tokens: truncation, the ends of the unit interval, and frequencies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.engine_contract import prompt

from sdar_pl.engines import Request, Sampling, TransformersEngine
from sdar_pl.engines.inverse_cdf import draw, truncate
from sdar_pl.errors import UserError
from sdar_pl.policy import Policy


def test_truncate() -> None:
    probs = torch.tensor([[0.4, 0.1, 0.3, 0.2]])
    logprobs = probs.log()

    def support(**options: Any) -> list[int]:
        return truncate(logprobs, Sampling(**options))[0].nonzero().flatten().tolist()

    assert support() == [0, 1, 2, 3]
    assert support(top_k=2) == [0, 2]
    assert support(top_k=9) == [0, 1, 2, 3]
    assert support(top_p=0.39) == [0]
    assert support(top_p=0.41) == [0, 2]
    assert support(top_p=0.71) == [0, 2, 3]
    # Top-p counts the mass that top-k has left: 0.4 of 0.7 is more than half.
    assert support(top_k=2, top_p=0.5) == [0]


@pytest.mark.parametrize(("u", "token"), [(0.0, 1), (float(np.nextafter(1.0, 0.0)), 3)])
def test_the_ends_of_the_unit_interval(u: float, token: int) -> None:
    logits = torch.tensor([[-1e9, 1.0, -1e9, 2.0, -1e9]])
    tokens, logprobs = draw(logits, [u], Sampling())
    assert tokens == [token]
    assert logprobs == pytest.approx([float(torch.tensor([1.0, 2.0]).log_softmax(0)[token // 2])])


def test_a_number_picks_its_token() -> None:
    """The token whose part of the unit interval holds the number; each row by its own number, under the temperature."""
    probs = torch.tensor([0.1, 0.2, 0.3, 0.4])
    numbers = [0.05, 0.15, 0.25, 0.35, 0.55, 0.65, 0.95]
    wanted = [0, 1, 1, 2, 2, 3, 3]
    for temperature in (1.0, 0.5):
        logits = (temperature * probs.log() + 7.0).expand(len(numbers), -1)
        tokens, logprobs = draw(logits, numbers, Sampling(temperature=temperature))
        assert tokens == wanted
        assert logprobs == pytest.approx(probs[wanted].log().tolist(), abs=1e-5)
    # Top-k takes its mass from the others: what is left is drawn in proportion. The log-probs stay those of all tokens.
    tokens, logprobs = draw(probs.log().expand(2, -1), [0.4, 0.5], Sampling(top_k=2))
    assert tokens == [2, 3]
    assert logprobs == pytest.approx(probs[[2, 3]].log().tolist())
    assert draw(probs.log()[None], [0.0], Sampling(temperature=0))[0] == [3]


@pytest.mark.parametrize(("options", "most"), [({"top_k": 3}, 3), ({"top_p": 0.5}, 0), ({}, 0)])
def test_draws_follow_the_distribution(make_policy: Callable[..., Policy], options: dict[str, Any], most: int) -> None:
    policy = make_policy()
    engine, context, count = TransformersEngine(), prompt(5), 4000
    engine.sync(policy)
    sampling = Sampling(temperature=1.7, max_new_tokens=1, **options)
    answers = engine.generate([Request(n, context, np.random.default_rng([7, n])) for n in range(count)], sampling)
    with torch.no_grad(), policy.whole():
        logits = policy.causal_lm(torch.tensor([context])).logits[0, -1].double() / 1.7
    logprobs = logits.log_softmax(-1)
    allowed = truncate(logprobs[None], sampling)[0]
    allowed /= allowed.sum()
    drawn = torch.bincount(torch.tensor([answer.tokens[0] for answer in answers]), minlength=len(allowed)) / count
    assert set(drawn.nonzero().flatten().tolist()) <= set(allowed.nonzero().flatten().tolist())
    assert not most or int((drawn > 0).sum()) == most
    # Three standard deviations of each frequency, and a little for the many tokens.
    assert ((drawn - allowed).abs() < 4.5 * (allowed * (1 - allowed) / count).sqrt() + 2 / count).all()
    for answer in answers[:50]:
        # Under the temperature, before top-k and top-p.
        assert answer.logprobs[0] == pytest.approx(float(logprobs[answer.tokens[0]]), abs=1e-4)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}, {"max_new_tokens": 0}]
)
def test_bad_sampling(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"sampling.{next(iter(wrong))}"):
        Sampling(**wrong).check("data.sampling")


@pytest.mark.parametrize("temperature", [1.0, 0.0])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_draw_nothing(bad: float, temperature: float) -> None:
    logits = torch.zeros(3, 5)
    logits[1, 4] = bad
    with pytest.raises(FloatingPointError):
        draw(logits, [0.1] * 3, Sampling(temperature=temperature))


def test_a_token_that_is_ruled_out_is_no_error() -> None:
    logits = torch.zeros(2, 5)
    logits[:, 0] = -torch.inf
    assert 0 not in draw(logits, [0.0, 0.9], Sampling())[0]
