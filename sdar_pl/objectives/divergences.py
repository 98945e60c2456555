"""Divergences between teacher and student over the vocabulary, not only on the sampled token.

The distributions have k + 1 outcomes: each of the teacher's k likeliest tokens, and *all other tokens together* as the
last. Left out: how the log-probs are computed (modeling/logprobs.py), and the gradient through the states that earlier
tokens lead to; as with every estimator, the gradient flows through the token's own distribution only.
"""

from __future__ import annotations

import sys
from typing import Literal, get_args

import torch
from torch import Tensor

from sdar_pl.checks import at_least, one_of
from sdar_pl.errors import UserError
from sdar_pl.objectives.estimators import Estimator
from sdar_pl.objectives.inputs import LossInputs

Kind = Literal["reverse-kl", "forward-kl", "js"]

KEY = "model.objective.distillation.estimator"


def divergence_terms(student: Tensor, teacher: Tensor, mask: Tensor, *, kind: Kind) -> Tensor:
    """Divergences [B, R] of log-probs [B, R, K] over K outcomes whose probabilities sum to 1; 0 where masked.

    With p the student's probabilities and q the teacher's: ``reverse-kl`` KL(p ‖ q), ``forward-kl`` KL(q ‖ p), ``js``
    ½KL(p ‖ m) + ½KL(q ‖ m) with m = (p + q)/2, at most log 2. Outcomes where the teacher's log-prob is −∞ are left
    out. Only ``student`` gets a gradient. Raises UserError for an unknown kind.

    The summand of every outcome is ≥ 0: q − p, whose sum is 0, is added to p·log(p/q). Equal distributions therefore
    give exactly 0, in value and in gradient.
    """
    one_of(f"{KEY}.kind", kind, get_args(Kind))
    unused = (mask == 0)[..., None] | teacher.isneginf()
    student, teacher = student.masked_fill(unused, 0.0), teacher.detach().masked_fill(unused, 0.0)
    p, q, gap = student.exp(), teacher.exp(), teacher - student
    if kind == "reverse-kl":
        summands = q - p - p * gap
    elif kind == "forward-kl":
        summands = p - q + q * gap
    else:
        mean = torch.log1p(torch.expm1(-gap.abs()) / 2)  # log of m over the larger of p and q
        summands = (p * (-gap).clamp(max=0) + q * gap.clamp(max=0) - (p + q) * mean) / 2
    return summands.sum(-1)


class TopKDivergence(Estimator):
    """Gated divergence g·D between student and teacher, over the teacher's k likeliest tokens and all others together.

    D is the reverse KL(π_θ ‖ π_T), the forward KL(π_T ‖ π_θ) or the Jensen–Shannon divergence: the family of GKD
    (2306.13649). The gradient is that of the divergence itself, for all tokens at once, without the sampling noise of
    the token that the student drew.

    Lumping outcomes never increases a divergence (data-processing inequality). Hence D ≥ 0, D = 0 exactly where
    teacher and student agree on the k tokens, D grows with k, and D is exact with the whole vocabulary. What D leaves
    out is how teacher and student distribute probability within the tail. The mass of the tail counts, which it does
    not where the k tokens are cut out or renormalised.

    The tokens are chosen and scored once an iteration with the teacher's log-probs (θ_old).

    Args:
        kind: reverse-kl (the student's likely tokens must be likely for the teacher), forward-kl (the teacher's likely
            tokens must be likely for the student) or js (Jensen–Shannon, symmetric, at most log 2).
        k: number of tokens, ≥ 1; null is the whole vocabulary. Needs 12·k bytes per response token: 0.8 kB for 64,
            1.8 MB for a vocabulary of 152 thousand.
    """

    def __init__(self, kind: Kind = "reverse-kl", k: int | None = 64) -> None:
        self.kind: Kind = one_of(f"{KEY}.kind", kind, get_args(Kind))
        self.k = at_least(f"{KEY}.k", k, 1)
        self.top_k = sys.maxsize if self.k is None else self.k

    def __call__(self, inputs: LossInputs, weight: Tensor) -> Tensor:
        if inputs.student_top is None or inputs.teacher_top is None:
            raise UserError(
                f"{KEY}: a divergence needs student_top and teacher_top, the log-probs of the teacher's likeliest "
                "tokens; give them, or use Likelihood"
            )
        return weight * divergence_terms(inputs.student_top, inputs.teacher_top, inputs.mask, kind=self.kind)
