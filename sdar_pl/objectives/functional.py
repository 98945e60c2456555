"""The losses and advantages as pure functions: tensors in, tensor out, no state.

Shapes: B rows, R response tokens of a row, N rows of an iteration. Log-probs are those of the tokens that the
student sampled. ``mask`` is 1 on real tokens and 0 elsewhere; whatever stands at masked places (NaN and infinity
included) reaches neither a value nor a gradient. Functions named ``*_terms`` give one value a token; the others
aggregate those to a scalar.

Left out on purpose: anything with a name in YAML (objective.py and its neighbours).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from sdar_pl.checks import one_of

Aggregation = Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"]
KLEstimator = Literal["k1", "k2", "k3"]
Unit = Literal["episode", "row"]
Scale = Literal["std", "none", "leave-one-out"]

LOG_RATIO_LIMIT = 20.0  # exp(20) is still finite in every dtype that a loss is computed in
STD_EPSILON = 1e-6


def fill_masked(values: Tensor, mask: Tensor) -> Tensor:
    """``values`` [B, R] with 0 where ``mask`` is 0; unlike a product, it stops NaN and infinity both ways."""
    return values.masked_fill(mask == 0, 0.0)


def aggregate(
    values: Tensor, mask: Tensor, how: Aggregation = "token-mean", *, total: float | Tensor | None = None
) -> Tensor:
    """Mean of ``values`` [B, R] over the tokens of ``mask`` [B, R]; a scalar.

    - ``token-mean``: Σ over all tokens / number of tokens.
    - ``seq-mean-token-mean``: each row's token mean, then the mean over rows.
    - ``seq-mean-token-sum``: each row's token sum, then the mean over rows.

    ``total`` replaces the denominator of the outer mean (tokens in the first mode, rows in the others). With the
    total of a whole optimizer step, the micro-batches' losses *sum* to the loss of the step, however it is split.
    A row without tokens is padding: it adds nothing and does not count.

    Raises UserError for an unknown mode.
    """
    one_of("model.objective.aggregation", how, get_args(Aggregation))
    values = fill_masked(values, mask)
    tokens = (mask != 0).sum(-1)
    if how == "token-mean":
        numerator, count = values.sum(), tokens.sum()
    elif how == "seq-mean-token-mean":
        numerator, count = (values.sum(-1) / tokens.clamp(min=1)).sum(), (tokens > 0).sum()
    else:
        numerator, count = values.sum(), (tokens > 0).sum()
    return numerator / (count.clamp(min=1) if total is None else total)


def gap_gate(student: Tensor, teacher: Tensor, mask: Tensor, *, beta: float = 5.0) -> tuple[Tensor, Tensor]:
    """The gap Δ = log π_T − log π_θ and the gate σ(βΔ), both [B, R], both detached (SDAR, arXiv 2605.15155)."""
    gap = fill_masked(teacher.detach() - student.detach(), mask)
    return gap, torch.sigmoid(beta * gap)


def sdar_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor,
    *,
    beta: float = 5.0,
    aggregation: Aggregation = "token-mean",
    total: float | Tensor | None = None,
) -> Tensor:
    """Gated self-distillation g·(log π_T − log π_θ), g = σ(βΔ) detached; gradient −g·∇log π_θ / Σm (2605.15155).

    ``student``, ``teacher``, ``mask`` are [B, R]; only ``student`` gets a gradient.
    """
    _, gate = gap_gate(student, teacher, mask, beta=beta)
    return aggregate(gate * (teacher.detach() - student), mask, aggregation, total=total)


def log_ratio(student: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    """log ρ = log π_θ − log π_old, clamped so that exp() stays finite; [B, R], 0 where masked."""
    return fill_masked(student - old.detach(), mask).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def per_token(advantages: Tensor, mask: Tensor) -> Tensor:
    """``advantages`` [B] or [B, R] as [B, R], 0 where masked, detached."""
    advantages = advantages.detach()
    if advantages.dim() == 1:
        advantages = advantages[:, None].expand(mask.shape)
    return fill_masked(advantages, mask)


def clipped_policy_terms(
    student: Tensor,
    old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = 3.0,
) -> tuple[Tensor, Tensor]:
    """PPO's clipped surrogate (1707.06347) with dual clip (1912.09729): terms [B, R] and where the clip acts [B, R].

    max(−Aρ, −A·clip(ρ, 1−low, 1+high)), and where A < 0 at most −A·dual_clip (None: no limit).
    """
    ratio = log_ratio(student, old, mask).exp()
    advantages = per_token(advantages, mask)
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_low, 1 + clip_high)
    terms = torch.maximum(plain, clipped)
    if dual_clip is not None:
        terms = torch.where(advantages < 0, torch.minimum(terms, -advantages * dual_clip), terms)
    return terms, (clipped > plain).to(terms.dtype)


def clipped_policy_loss(
    student: Tensor,
    old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = 3.0,
    aggregation: Aggregation = "token-mean",
    total: float | Tensor | None = None,
) -> Tensor:
    """``clipped_policy_terms`` aggregated; ``advantages`` [B] or [B, R]."""
    terms, _ = clipped_policy_terms(
        student, old, advantages, mask, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip
    )
    return aggregate(terms, mask, aggregation, total=total)


def gspo_terms(
    student: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, *, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """GSPO (2507.18071): the clipped surrogate with one ratio a row, s = exp(mean_t log ρ_t); terms and clip [B, R].

    Token form: s·π_θ/sg(π_θ) has the value of s and spreads its gradient over the row's tokens.
    """
    ratio = fill_masked(student - old.detach(), mask)
    row = ratio.detach().sum(-1, keepdim=True) / (mask != 0).sum(-1, keepdim=True).clamp(min=1)
    student = fill_masked(student, mask)
    sequence = (student - student.detach() + row).clamp(max=10.0).exp()
    advantages = per_token(advantages, mask)
    plain = -advantages * sequence
    clipped = -advantages * sequence.clamp(1 - clip_low, 1 + clip_high)
    return torch.maximum(plain, clipped), (clipped > plain).to(plain.dtype)


def gspo_loss(
    student: Tensor,
    old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    total: float | Tensor | None = None,
) -> Tensor:
    """``gspo_terms`` aggregated as published: seq-mean-token-mean (``total`` counts rows)."""
    terms, _ = gspo_terms(student, old, advantages, mask, clip_low=clip_low, clip_high=clip_high)
    return aggregate(terms, mask, "seq-mean-token-mean", total=total)


def k3(ell: Tensor) -> Tensor:
    """exp(−ℓ) − 1 + ℓ ≥ 0 for log-ratios ℓ of any shape, with −ℓ clamped at ±20."""
    inverse = (-ell).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return inverse.exp() - 1 - inverse


def kl_terms(student: Tensor, reference: Tensor, mask: Tensor, *, estimator: KLEstimator = "k3") -> Tensor:
    """Sampled estimates [B, R] of KL(π_θ ‖ π_ref), with ℓ = log π_θ − log π_ref (Schulman 2020, "Approximating KL").

    k1 = ℓ; k2 = ℓ²/2; k3 = exp(−ℓ) − 1 + ℓ, clamped to [−10, 10] against outliers. Raises UserError otherwise.
    """
    one_of("model.objective.reference_estimator", estimator, get_args(KLEstimator))
    ell = fill_masked(student - reference.detach(), mask)
    if estimator == "k1":
        return ell
    if estimator == "k2":
        return ell.square() / 2
    return k3(ell).clamp(-10.0, 10.0)


def reference_kl(
    student: Tensor,
    reference: Tensor,
    mask: Tensor,
    *,
    estimator: KLEstimator = "k3",
    aggregation: Aggregation = "token-mean",
    total: float | Tensor | None = None,
) -> Tensor:
    """``kl_terms`` aggregated: the penalty that keeps the policy near the reference view."""
    return aggregate(kl_terms(student, reference, mask, estimator=estimator), mask, aggregation, total=total)


def skill_sd_terms(student: Tensor, teacher: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    """Skill-SD's ρ·k3 [B, R], with ℓ = log π_θ − log π_T and ρ = π_θ/π_old; the gradient flows through both.

    On-policy the expected gradient is E[ℓ·∇log π_θ]: exactly that of the reverse KL(π_θ ‖ π_T).
    −ℓ is clamped at ±20, log ρ at ±10.
    """
    ratio = fill_masked(student - old.detach(), mask).clamp(-10.0, 10.0).exp()
    return ratio * k3(fill_masked(student - teacher.detach(), mask))


def skill_sd_loss(
    student: Tensor,
    teacher: Tensor,
    old: Tensor,
    mask: Tensor,
    *,
    aggregation: Aggregation = "token-mean",
    total: float | Tensor | None = None,
) -> Tensor:
    """``skill_sd_terms`` aggregated; all tensors [B, R]."""
    return aggregate(skill_sd_terms(student, teacher, old, mask), mask, aggregation, total=total)


def rlsd_advantages(
    advantages: Tensor, student: Tensor, teacher: Tensor, mask: Tensor, *, mix: float = 0.5, clip: float = 0.2
) -> Tensor:
    """RLSD's token advantages [B, R]: A·[(1 − mix) + mix·clip(exp(sign(A)·Δ), 1 − clip, 1 + clip)].

    ``advantages`` is [B] (or [B, R]); the teacher redistributes credit and never changes its sign. ``mix`` = 0
    returns the advantages bit for bit.
    """
    advantages = per_token(advantages, mask)
    gap = fill_masked(teacher.detach() - student.detach(), mask)
    factor = (advantages.sign() * gap).exp().clamp(1 - clip, 1 + clip)
    return advantages * (1 + mix * (factor - 1))  # exactly 1 where there is no gap


def group_advantages(
    rewards: Tensor, groups: Tensor, episodes: Tensor, *, unit: Unit = "episode", scale: Scale = "std"
) -> Tensor:
    """Group-relative advantages [N] of rows with ``rewards``, ``groups``, ``episodes`` [N].

    Each row's reward is compared with its group's mean (and, with ``std``, divided by the sample deviation + 1e-6:
    GRPO, 2402.03300; ``none``: Dr. GRPO, 2503.20783). ``unit`` says what the statistics count: every *episode* once
    (by its first row), or every *row* – the latter, as in the reference code, lets long episodes dominate.
    ``leave-one-out`` (RLOO, 2402.14740) compares with the mean of the others. A group of one has mean 0 and
    deviation 1. Computed in float64, so that equal rewards give exactly nothing; returned in the rewards' dtype.

    Raises UserError for an unknown unit or scale.
    """
    one_of("data.advantage.unit", unit, get_args(Unit))
    one_of("data.advantage.scale", scale, get_args(Scale))
    values = rewards.double()
    result = torch.zeros_like(values)
    for group in set(groups.tolist()):
        rows = (groups == group).nonzero().flatten()
        own = values[rows]
        if unit == "episode":
            names = episodes[rows].tolist()
            order = list(dict.fromkeys(names))  # every episode once, in the order of first rows
            samples = own[[names.index(name) for name in order]]
            member = torch.tensor([order.index(name) for name in names], device=rows.device)
        else:
            samples, member = own, torch.arange(len(rows), device=rows.device)
        n = len(samples)
        if n == 1:
            result[rows] = own
        elif scale == "leave-one-out":
            result[rows] = own - (samples.sum() - samples[member]) / (n - 1)
        else:
            centred = own - samples.mean()
            result[rows] = centred / (samples.std() + STD_EPSILON) if scale == "std" else centred
    return result.to(rewards.dtype if rewards.is_floating_point() else torch.get_default_dtype())
