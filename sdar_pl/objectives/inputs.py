"""What an objective reads and what it answers: LossInputs and LossOutputs. Shapes: B rows, R response tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from sdar_pl.objectives.functional import fill_masked


@dataclass(frozen=True)
class LossInputs:
    """One micro-batch. Log-probs are of the tokens that the student sampled, those named ``top`` of the teacher's k
    likeliest tokens and, last, of all others together.

    ``student_logprobs`` carry the gradient. ``old_logprobs`` None means that the rows were sampled by the very same
    weights (``student_logprobs.detach()``), ``teacher_logprobs`` None no privileged context, ``reference_logprobs``
    None no reference view. ``advantages`` are already broadcast over each row's tokens. ``turns`` numbers the turn of
    each token from 0.
    ``total_tokens`` and ``total_rows`` are those of the whole optimizer step (None: this micro-batch is the step).
    ``iteration`` counts from 0; schedules read it. ``episodes`` and ``groups`` say to which episode and
    group a row belongs: shapers that look across rows need them. ``shaped`` says that ``advantages`` already went
    through Objective.shape.
    """

    student_logprobs: Tensor  # [B, R]
    mask: Tensor  # [B, R], 0 or 1
    advantages: Tensor  # [B, R]
    turns: Tensor  # [B, R], long
    old_logprobs: Tensor | None = None  # [B, R]
    teacher_logprobs: Tensor | None = None  # [B, R]
    reference_logprobs: Tensor | None = None  # [B, R]
    entropy: Tensor | None = None  # [B, R], nats; with gradient if there is an entropy bonus
    student_top: Tensor | None = None  # [B, R, k + 1], with gradient
    teacher_top: Tensor | None = None  # [B, R, k + 1]
    total_tokens: float | None = None
    total_rows: float | None = None
    iteration: int = 0
    episodes: Tensor | None = None  # [B], long
    groups: Tensor | None = None  # [B], long
    shaped: bool = False

    @property
    def behaviour(self) -> Tensor:
        """Log-probs [B, R] under the weights that sampled the rows, detached."""
        return (self.student_logprobs if self.old_logprobs is None else self.old_logprobs).detach()

    @property
    def gap(self) -> Tensor:
        """Δ = log π_T − log π_θ with the current student, [B, R], detached, 0 where masked. Needs a teacher."""
        assert self.teacher_logprobs is not None
        return fill_masked(self.teacher_logprobs.detach() - self.student_logprobs.detach(), self.mask)

    @property
    def behaviour_gap(self) -> Tensor:
        """Δ under the weights that sampled the rows: it does not drift within an iteration. Otherwise as ``gap``."""
        assert self.teacher_logprobs is not None
        return fill_masked(self.teacher_logprobs.detach() - self.behaviour, self.mask)


@dataclass(frozen=True)
class LossOutputs:
    """``loss`` with its gradient, and what to report.

    ``terms`` are detached scalars that *sum* over the micro-batches of a step to the step's value: ``loss/total``,
    ``loss/policy``, ``loss/distill``, ``loss/reference_kl``, ``loss/entropy`` (each before its coefficient, save
    ``loss/total``). ``tokens`` are detached records [B, R], 0 where masked, to be averaged over tokens by the reader:
    ``gap``, ``gate``, ``clipped`` (0/1), ``approx_kl`` (log π_old − log π_θ) and ``weight``, which is what the
    teacher adds to the token's weight (coefficient × gate, or the change of its advantage).
    """

    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    tokens: dict[str, Tensor] = field(default_factory=dict)
