"""Corrections of the mismatch between engine and trainer: weights, what stays unbiased, and where they apply."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from helpers.losses import example, grad, with_totals

from sdar_pl.errors import UserError
from sdar_pl.objectives import (
    GRPO,
    SDAR,
    Distillation,
    GeometricMask,
    IcePop,
    Likelihood,
    LossInputs,
    NoCorrection,
    Objective,
    ScoreCentering,
    TopKDivergence,
    TruncatedImportance,
)
from sdar_pl.objectives.corrections import MEAN, MEAN_SQUARE, chosen, corrected, records, with_sample_size

RATIOS = torch.tensor([[0.2, 0.6, 1.0, 1.9, 4.0], [1.0, 1.005, 0.999, 9.0, 9.0]])
MASK = torch.tensor([[1.0, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def test_weights() -> None:
    logs = RATIOS.log()
    torch.testing.assert_close(TruncatedImportance(2.0)(logs, MASK)[0], torch.tensor([0.2, 0.6, 1.0, 1.9, 2.0]))
    torch.testing.assert_close(IcePop(0.5, 2.0)(logs, MASK)[0], torch.tensor([0.0, 0.6, 1.0, 1.9, 0.0]))
    # The geometric means are 0.98 and 1.0013; what the mask hides does not count.
    assert GeometricMask()(logs, MASK).tolist() == [[0.0] * 5, [1.0] * 5]
    assert NoCorrection()(logs, MASK).tolist() == [[1.0] * 5] * 2


@pytest.mark.parametrize("top_k", [8, 5])
def test_score_centering_has_no_drift(top_k: int) -> None:
    """Under a constant advantage the expected gradient is 0 where the likeliest tokens are all of them, and truncated
    importance sampling's is not; with a part of them it is nearer to 0."""
    torch.manual_seed(3)
    logits = (2 * torch.randn(8, dtype=torch.float64)).requires_grad_()
    engine = (logits.detach() + 1.5 * torch.randn(8, dtype=torch.float64)).log_softmax(0)
    likely = engine.topk(top_k)

    def drift(correction: TruncatedImportance) -> float:
        total = torch.zeros(8, dtype=torch.float64)
        for token in range(8):
            student = logits.log_softmax(0)
            named = student[likely.indices]
            others = torch.log((1 - named.exp().sum()).clamp(min=1e-30))
            one = torch.ones(1, 1, dtype=torch.float64)
            top = torch.cat([named, others[None]]).reshape(1, 1, -1)
            inputs = LossInputs(student[token].reshape(1, 1), one, one, torch.zeros(1, 1).long(), student_top=top)
            pairs = torch.stack([likely.indices.double(), likely.values], -1).reshape(1, 1, top_k, 2)
            mismatch = (student[token].detach() - engine[token]).reshape(1, 1)
            inputs = corrected(inputs, correction, mismatch, pairs if correction.likely else None)
            (gradient,) = torch.autograd.grad(GRPO()(inputs).loss, logits)
            total += engine[token].exp() * gradient
        return float(total.abs().max())

    plain, centred = drift(TruncatedImportance(1.2)), drift(ScoreCentering(1.2, top_k))
    assert plain > 0.01
    assert centred < (1e-12 if top_k == 8 else 0.3 * plain)


def test_score_centering_by_hand() -> None:
    """c = Σ (min(p, C q) − min(1, C ρ) p) log p with p = (0.5, 0.3, others 0.2), q = (0.2, 0.5, others 0.3), C = 2."""
    student = torch.tensor([[[0.5, 0.3, 0.2]]]).log().requires_grad_()
    likely = torch.tensor([[[[7.0, 0.2], [3.0, 0.5]]]])
    likely[..., 1] = likely[..., 1].log()
    centre = ScoreCentering(2.0, 2).centre(student, likely)
    # C ρ = 2 · 0.3 / 0.2 > 1, so that the second factor is 1.
    expected = (0.4 - 0.5) * math.log(0.5) + (0.3 - 0.3) * math.log(0.3)
    assert centre.item() == pytest.approx(expected, rel=1e-5)
    centre.sum().backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, torch.tensor([[[-0.1, 0.0, 0.0]]]))


def test_figures() -> None:
    logs = RATIOS.log()
    for correction, share in ((TruncatedImportance(), 1), (IcePop(), 2), (GeometricMask(), 5), (NoCorrection(), 0)):
        found = records(correction, logs, correction(logs, MASK))
        assert found["engine/importance_clipped"][0].sum() == share
    values = with_sample_size({MEAN: 1.0, MEAN_SQUARE: 1.25, "loss/total": 3.0})
    assert values == {"engine/effective_sample_size": 0.8, "loss/total": 3.0}
    assert with_sample_size({"loss/total": 3.0}) == {"loss/total": 3.0}
    assert records(None, logs, None) == {}


def test_the_expected_gradient_is_the_trainers() -> None:
    """Over all tokens that the engine may sample, weights w give the gradient of sampling from the trainer itself:
    of the policy loss and of the distillation. Without them it is another."""
    torch.manual_seed(0)
    logits = torch.randn(6, dtype=torch.float64, requires_grad=True)
    engine = (logits.detach() + 0.4 * torch.randn(6, dtype=torch.float64)).log_softmax(0)
    rewards, teacher = torch.randn(6, dtype=torch.float64), torch.randn(6, dtype=torch.float64).log_softmax(0)
    objective = SDAR(coefficient=0.7, beta=5.0)

    def gradient(sampler: torch.Tensor, corrected: bool) -> torch.Tensor:
        student = logits.log_softmax(0)
        total = torch.zeros(6, dtype=torch.float64)
        for token in range(6):
            mask = torch.ones(1, 1, dtype=torch.float64)
            inputs = replace(
                example(1, dtype=torch.float64),
                student_logprobs=student[token].reshape(1, 1),
                old_logprobs=None,
                teacher_logprobs=teacher[token].reshape(1, 1),
                reference_logprobs=None,
                student_top=None,
                teacher_top=None,
                entropy=None,
                mask=mask,
                turns=torch.zeros(1, 1, dtype=torch.long),
                advantages=rewards[token].reshape(1, 1),
            )
            if corrected:
                ratio = (student[token].detach() - sampler[token]).reshape(1, 1)
                inputs = replace(inputs, correction=TruncatedImportance(1e9)(ratio, mask))
            (one,) = torch.autograd.grad(objective(inputs).loss, logits, retain_graph=True)
            total += sampler[token].exp() * one
        return total

    wanted = gradient(logits.detach().log_softmax(0), corrected=False)
    torch.testing.assert_close(gradient(engine, corrected=True), wanted)
    assert (gradient(engine, corrected=False) - wanted).abs().max() > 0.01


def test_a_weight_multiplies_what_stands_on_sampled_tokens() -> None:
    """The gradient of a token is its own, times its weight; a divergence, which does not depend on the sampled token,
    keeps its own."""
    inputs = with_totals(replace(example(), old_logprobs=None))
    weights = torch.rand_like(inputs.student_logprobs) * 2
    likelihood = Objective(None, Distillation(estimator=Likelihood()))
    for objective in (GRPO(), likelihood):
        plain, weighed = grad(objective, inputs), grad(objective, replace(inputs, correction=weights))
        torch.testing.assert_close(weighed, plain * weights)
        assert plain.abs().max() > 0, "the premise"
    divergence = Objective(None, Distillation(estimator=TopKDivergence(k=4)))
    one, other = divergence(inputs).loss, divergence(replace(inputs, correction=weights)).loss
    assert torch.equal(one, other)


def test_the_keys() -> None:
    short = chosen(None, 3.0)
    assert isinstance(short, TruncatedImportance)
    assert short.cap == 3.0
    assert chosen(None, None) is None
    with pytest.raises(UserError, match=r"^model.importance_cap: model.correction is set as well; set one"):
        chosen(IcePop(), 2.0)
    for low, high in itertools.product((2.0, 3.0), (1.0, 2.0)):
        with pytest.raises(UserError, match=r"^model.correction.low: \d; must be below high"):
            IcePop(low, high)
