"""Losses and advantages as pure functions: tensors in, tensor out, no state. The classes of this package call them.

Shapes: B rows, R response tokens of a row, N rows of an iteration. Log-probs are those of the tokens that the
student sampled; only ``student`` gets a gradient. ``mask`` is 1 on real tokens and 0 elsewhere. Values at masked
positions, NaN and infinity included, reach neither a result nor a gradient. A function ``*_terms`` returns one value a
token; the function ``*_loss`` of the same name aggregates those values to a scalar.

Left out: statistics over rows (group_statistics.py; ``group_advantages`` is public here as well), and every class that
YAML can name (objective.py and its neighbours).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from sdar_pl.checks import one_of
from sdar_pl.objectives.group_statistics import group_advantages as group_advantages

Aggregation = Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"]
KLEstimator = Literal["k1", "k2", "k3"]

LOG_RATIO_LIMIT = 20.0  # exp(20) is still finite in every dtype that a loss is computed in


def fill_masked(values: Tensor, mask: Tensor) -> Tensor:
    """``values`` [B, R] with 0 where ``mask`` is 0. Unlike a product with the mask, it also blocks NaN and infinity."""
    return values.masked_fill(mask == 0, 0.0)


def aggregate(
    values: Tensor, mask: Tensor, how: Aggregation = "token-mean", *, total: float | Tensor | None = None
) -> Tensor:
    """Mean of ``values`` [B, R] over the tokens of ``mask`` [B, R]; a scalar.

    - ``token-mean``: Σ over all tokens / number of tokens.
    - ``seq-mean-token-mean``: each row's token mean, then the mean over rows.
    - ``seq-mean-token-sum``: each row's token sum, then the mean over rows.

    ``total`` replaces the denominator of the outer mean (tokens in the first mode, rows in the others). With the
    total of a whole optimizer step, the losses of its micro-batches *sum* to the loss of the step for every split.
    A row without tokens is padding: it adds 0 and is not counted as a row.

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


# ---------------------------------------------------------------------- differences of log-probs


def log_difference(ours: Tensor, theirs: Tensor, mask: Tensor) -> Tensor:
    """``ours`` − ``theirs`` [B, R], 0 where masked; only ``ours`` keeps its gradient."""
    return fill_masked(ours - theirs.detach(), mask)


def log_ratio(student: Tensor, old: Tensor, mask: Tensor, *, limit: float = LOG_RATIO_LIMIT) -> Tensor:
    """log ρ = log π_θ − log π_old [B, R], clamped to ±``limit`` so that exp() stays finite."""
    return log_difference(student, old, mask).clamp(-limit, limit)


def gap(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """The gap Δ = log π_T − log π_θ between teacher and student [B, R], detached."""
    return log_difference(teacher, student, mask).detach()


def k3(ell: Tensor) -> Tensor:
    """exp(−ℓ) − 1 + ℓ ≥ 0 for log-ratios ℓ of any shape, with −ℓ clamped to ±20."""
    inverse = (-ell).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return inverse.exp() - 1 - inverse


# ---------------------------------------------------------------------- distillation


def sigmoid_gate(gap: Tensor, *, beta: float) -> Tensor:
    """SDAR's gate σ(βΔ) for gaps Δ of any shape (2605.15155)."""
    return torch.sigmoid(beta * gap)


def gap_gate(student: Tensor, teacher: Tensor, mask: Tensor, *, beta: float = 5.0) -> tuple[Tensor, Tensor]:
    """The gap Δ and the gate σ(βΔ), both [B, R], both detached (SDAR, 2605.15155)."""
    delta = gap(student, teacher, mask)
    return delta, sigmoid_gate(delta, beta=beta)


def likelihood_terms(student: Tensor, teacher: Tensor, mask: Tensor, *, gate: Tensor) -> Tensor:
    """g·(log π_T − log π_θ) [B, R] for a detached gate g [B, R]; the gradient is −g·∇log π_θ (SDAR, 2605.15155)."""
    return -gate * log_difference(student, teacher, mask)


def sdar_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor,
    *,
    beta: float = 5.0,
    aggregation: Aggregation = "token-mean",
    total: float | Tensor | None = None,
) -> Tensor:
    """``likelihood_terms`` under the gap gate, aggregated: SDAR's gated self-distillation (2605.15155)."""
    _, gate = gap_gate(student, teacher, mask, beta=beta)
    return aggregate(likelihood_terms(student, teacher, mask, gate=gate), mask, aggregation, total=total)


def skill_sd_terms(student: Tensor, teacher: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    """Skill-SD's ρ·k3 [B, R], with ℓ = log π_θ − log π_T and ρ = π_θ/π_old; the gradient flows through both.

    The expected gradient is E[ℓ·∇log π_θ], which is that of the reverse KL(π_θ ‖ π_T), where the loss divides by a
    constant and no group was selected by its outcome (gates.py).
    −ℓ is clamped to ±20, log ρ to ±10.
    """
    return log_ratio(student, old, mask, limit=10.0).exp() * k3(log_difference(student, teacher, mask))


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


# ---------------------------------------------------------------------- policy losses and reference KL


def clipped_surrogate(ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float) -> tuple[Tensor, Tensor]:
    """PPO's max(−Aρ, −A·clip(ρ, 1 − low, 1 + high)) and where the clip acts (0 or 1), both [B, R] (1707.06347)."""
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_low, 1 + clip_high)
    return torch.maximum(plain, clipped), (clipped > plain).to(plain.dtype)


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
    """``clipped_surrogate`` with dual clip (1912.09729): the terms and where either clip acts (0 or 1), both [B, R].

    Where A < 0, a term is at most −A·``dual_clip`` (None: no limit). ``advantages`` are [B] or [B, R].
    """
    advantages = per_token(advantages, mask)
    terms, clipped = clipped_surrogate(log_ratio(student, old, mask).exp(), advantages, clip_low, clip_high)
    if dual_clip is not None:
        limit = torch.where(advantages < 0, -advantages * dual_clip, torch.inf)
        clipped = torch.where(terms > limit, 1.0, clipped)
        terms = torch.minimum(terms, limit)
    return terms, clipped


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
    """``clipped_policy_terms`` aggregated."""
    terms, _ = clipped_policy_terms(
        student, old, advantages, mask, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip
    )
    return aggregate(terms, mask, aggregation, total=total)


def gspo_terms(
    student: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, *, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """GSPO (2507.18071): ``clipped_surrogate`` with one ratio a row, s = exp(mean_t log ρ_t); both results [B, R].

    Token form: s·π_θ/sg(π_θ) has the value of s and distributes its gradient over the row's tokens.
    """
    mean = log_difference(student, old, mask).detach().sum(-1, keepdim=True)
    mean = mean / (mask != 0).sum(-1, keepdim=True).clamp(min=1)
    ratio = (log_difference(student, student, mask) + mean).clamp(max=10.0).exp()
    return clipped_surrogate(ratio, per_token(advantages, mask), clip_low, clip_high)


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


def kl_terms(student: Tensor, reference: Tensor, mask: Tensor, *, estimator: KLEstimator = "k3") -> Tensor:
    """Sampled estimates [B, R] of KL(π_θ ‖ π_ref), with ℓ = log π_θ − log π_ref (Schulman 2020, "Approximating KL").

    k1 = ℓ; k2 = ℓ²/2; k3 = exp(−ℓ) − 1 + ℓ, clamped to at most 10 against outliers. Raises UserError for another name.
    """
    one_of("model.objective.reference_estimator", estimator, get_args(KLEstimator))
    ell = log_difference(student, reference, mask)
    if estimator == "k1":
        return ell
    if estimator == "k2":
        return ell.square() / 2
    return k3(ell).clamp(max=10.0)


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


# ---------------------------------------------------------------------- advantages


def per_token(advantages: Tensor, mask: Tensor) -> Tensor:
    """``advantages`` [B] or [B, R] as [B, R], 0 where masked, detached."""
    advantages = advantages.detach()
    if advantages.dim() == 1:
        advantages = advantages[:, None].expand(mask.shape)
    return fill_masked(advantages, mask)


def scale_advantages(advantages: Tensor, factor: Tensor, *, mix: float) -> Tensor:
    """A·[(1 − mix) + mix·factor] of ``advantages`` and ``factor`` [B, R]; A bit for bit where mix = 0 or factor = 1."""
    return advantages * (1 + mix * (factor - 1))


def rlsd_advantages(
    advantages: Tensor, student: Tensor, teacher: Tensor, mask: Tensor, *, mix: float = 0.5, clip: float = 0.2
) -> Tensor:
    """RLSD's token advantages [B, R]: A·[(1 − mix) + mix·clip(exp(sign(A)·Δ), 1 − clip, 1 + clip)].

    ``advantages`` are [B] or [B, R]. The teacher redistributes credit and never changes its sign.
    """
    advantages = per_token(advantages, mask)
    factor = (advantages.sign() * gap(student, teacher, mask)).exp().clamp(1 - clip, 1 + clip)
    return scale_advantages(advantages, factor, mix=mix)
