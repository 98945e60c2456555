"""Divergences between teacher and student over the vocabulary, not only on the sampled token.

Both speak of k + 1 outcomes: the teacher's k likeliest tokens one by one, and *all others together* as the last. Left
out: where the log-probs come from (logprobs.py), and any weight on how a state was reached – as with every estimator,
the gradient flows through the token's own distribution alone.
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
    """Divergences [B, R] of log-probs [B, R, K] over K outcomes that are certain together; 0 where masked.

    With p the student's probabilities and q the teacher's: ``reverse-kl`` KL(p ‖ q), ``forward-kl`` KL(q ‖ p), ``js``
    ½KL(p ‖ m) + ½KL(q ‖ m) with m = (p + q)/2, at most log 2. An outcome of which the teacher's log-prob is −∞ is no
    outcome. Only ``student`` gets a gradient. Raises UserError for an unknown kind.

    Every outcome's share is written as ≥ 0 (q − p, which sums to nothing, is added to p·log(p/q)), so that equal
    distributions give exactly 0, in value and in gradient.
    """
    one_of(f"{KEY}.kind", kind, get_args(Kind))
    nothing = (mask == 0)[..., None] | teacher.isneginf()
    student, teacher = student.masked_fill(nothing, 0.0), teacher.detach().masked_fill(nothing, 0.0)
    p, q, gap = student.exp(), teacher.exp(), teacher - student
    if kind == "reverse-kl":
        shares = q - p - p * gap
    elif kind == "forward-kl":
        shares = p - q + q * gap
    else:
        mean = torch.log1p(torch.expm1(-gap.abs()) / 2)  # log of m over the larger of p and q
        shares = (p * (-gap).clamp(max=0) + q * gap.clamp(max=0) - (p + q) * mean) / 2
    return shares.sum(-1)


class TopKDivergence(Estimator):
    """g·D over the teacher's ``k`` likeliest tokens and all others together; ``kind`` reverse-kl, forward-kl or js.

    D is the KL divergence of the student from the teacher (reverse: what the student says must be likely for the
    teacher), of the teacher from the student (forward: the student must say all that the teacher would) or the
    Jensen–Shannon divergence between the two – the family of GKD (2306.13649). Its gradient is that of the divergence
    itself, for all tokens at once: no sampling noise from which token the student happened to draw.

    The tail: lumping outcomes never adds to a divergence (data-processing inequality), so D ≥ 0, D = 0 exactly where
    teacher and student agree, D grows with k and is exact with the whole vocabulary (``k`` null, or as large). The
    bias is what D misses: within the tail, how teacher and student *share out* its mass. The tail as a whole still
    counts, so mass cannot hide there, as it can if the k tokens are cut out or renormalised.

    The tokens are chosen and scored once an iteration with the teacher's log-probs (θ_old); per response token that
    takes 12·k bytes (64: 0.8 kB). The whole vocabulary is for small ones: one of 152 thousand takes 1.8 MB a token.
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
