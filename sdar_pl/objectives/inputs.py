"""What an objective reads and what it returns: LossInputs and LossOutputs. Shapes: B rows, R response tokens."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from sdar_pl.objectives import functional


@dataclass(frozen=True)
class LossInputs:
    """One micro-batch as an objective sees it.

    Log-probs are of the tokens that the student sampled. The two fields ``…_top`` hold log-probs of other tokens: the
    teacher's k likeliest ones and, last, all remaining tokens together. Only ``student_logprobs``, ``student_top``,
    ``entropy`` and ``centre`` carry a gradient.

    Example (B = 1 row of 2 response tokens, on-policy, R padded to 3)::

        LossInputs(
            student_logprobs=[[-0.7, -2.3, 0.0]],
            teacher_logprobs=[[-0.2, -2.9, 0.0]],      # gap: [[0.5, -0.6, 0.0]]
            mask=[[1, 1, 0]], advantages=[[1.2, 1.2, 1.2]], turns=[[0, 0, 0]],
        )
    """

    student_logprobs: Tensor  # [B, R]
    mask: Tensor  # [B, R], 0 or 1
    advantages: Tensor  # [B, R], of each row or already of each token
    turns: Tensor  # [B, R] long, the token's turn, from 0
    old_logprobs: Tensor | None = None  # [B, R]; None: the current weights sampled the rows
    teacher_logprobs: Tensor | None = None  # [B, R]; None: no privileged context
    reference_logprobs: Tensor | None = None  # [B, R]; None: no reference view
    entropy: Tensor | None = None  # [B, R], nats
    student_top: Tensor | None = None  # [B, R, k + 1]
    teacher_top: Tensor | None = None  # [B, R, k + 1]
    total_tokens: float | None = None  # of the whole optimizer step; None: this micro-batch is the step
    total_rows: float | None = None  # likewise
    learns: Tensor | None = None  # [B], 0 for rows that only the distillation reads; None: there are none
    learning_tokens: float | None = None  # the totals without those rows
    learning_rows: float | None = None
    iteration: int = 0  # from 0, for schedules
    episodes: Tensor | None = None  # [B] long, the row's episode; for shapers that compare rows
    groups: Tensor | None = None  # [B] long, the row's group; for shapers that compare rows
    success: Tensor | None = None  # [B] bool, whether the row's episode fulfilled its task; likewise
    correction: Tensor | None = None  # [B, R], weights of tokens that an engine sampled (corrections.py)
    centre: Tensor | None = None  # [B, R] with gradient: A × centre joins the policy loss (ScoreCentering)
    shaped: bool = False  # whether ``advantages`` already come from Objective.shape

    @property
    def learning(self) -> LossInputs:
        """The inputs of all parts but the distillation: without the rows that it alone reads."""
        if self.learns is None:
            return self
        mask = self.mask * self.learns[:, None]
        return replace(self, mask=mask, learns=None, total_tokens=self.learning_tokens, total_rows=self.learning_rows)

    @property
    def behaviour(self) -> Tensor:
        """Log-probs [B, R] under the weights that sampled the rows, detached."""
        return (self.student_logprobs if self.old_logprobs is None else self.old_logprobs).detach()

    @property
    def gap(self) -> Tensor:
        """The gap Δ = log π_T − log π_θ of the current student, [B, R], detached, 0 where masked. Needs a teacher."""
        assert self.teacher_logprobs is not None
        return functional.gap(self.student_logprobs, self.teacher_logprobs, self.mask)

    @property
    def behaviour_gap(self) -> Tensor:
        """The gap of the weights that sampled the rows: it is constant within an iteration. Otherwise as ``gap``."""
        assert self.teacher_logprobs is not None
        return functional.gap(self.behaviour, self.teacher_logprobs, self.mask)


@dataclass(frozen=True)
class LossOutputs:
    """The loss with its gradient, and detached values to report.

    ``terms`` are scalars that *sum* over the micro-batches of a step to the step's value: ``loss/total`` and, each
    before its coefficient, ``loss/policy``, ``loss/distill``, ``loss/reference_kl``, ``loss/entropy``.

    ``tokens`` are records [B, R], 0 where masked: ``gap``, ``gate``, ``clipped`` (0 or 1), ``approx_kl``
    (log π_old − log π_θ) and ``weight``, the teacher's share of the token's weight (coefficient × gate, or the
    change of its advantage). Reports average them over tokens.
    """

    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    tokens: dict[str, Tensor] = field(default_factory=dict)
