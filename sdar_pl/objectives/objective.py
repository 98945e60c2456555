"""Objective: policy loss + reference KL − entropy bonus + gated distillation, from one micro-batch's log-probs.

    L = L_policy + c_ref · KL(policy ‖ reference) − c_ent · H + λ · L_distill

Every part is a small class; a published method is a choice of parts (configs/objectives). The trainer calls the
objective alone and none of its parts. Left out: how log-probs and advantages are computed.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sdar_pl.checks import at_least
from sdar_pl.errors import UserError
from sdar_pl.objectives.distillation import Distillation
from sdar_pl.objectives.functional import Aggregation, KLEstimator, aggregate, fill_masked, kl_terms, log_difference
from sdar_pl.objectives.inputs import LossInputs, LossOutputs
from sdar_pl.objectives.policy_losses import ClippedPolicyLoss, PolicyLoss
from sdar_pl.objectives.schedules import Constant, Schedule
from sdar_pl.objectives.shapers import AdvantageShaper


class Objective:
    """The loss of one micro-batch. The losses of a step's micro-batches sum to the loss of the step for every split.

    Raises UserError for numbers out of range.

    Args:
        policy_loss: turns advantages into a gradient; null: no policy term (OPSD).
        distillation: auxiliary loss that draws the student to the teacher; null: none.
        shaper: lets the teacher change the advantages; null: they stay as they are.
        reference_coefficient: c_ref ≥ 0, weight of the KL divergence from the reference view (adapters off).
        reference_estimator: per-token estimator of that divergence: k1, k2 or k3.
        entropy_coefficient: c_ent ≥ 0, weight of the entropy bonus, per nat.
        aggregation: from tokens to the loss: token-mean (every token alike), seq-mean-token-mean (every row alike) or
            seq-mean-token-sum (sum over a row's tokens, mean over rows).
        length_norm: constant ≥ 1 that divides the token sums of seq-mean-token-sum (Dr. GRPO, 2503.20783: the
            generation limit in tokens).
    """

    def __init__(
        self,
        policy_loss: PolicyLoss | None = ClippedPolicyLoss(),  # noqa: B008 – immutable
        distillation: Distillation | None = None,
        shaper: AdvantageShaper | None = None,
        reference_coefficient: float = 0.0,
        reference_estimator: KLEstimator = "k3",
        entropy_coefficient: float = 0.0,
        aggregation: Aggregation = "token-mean",
        length_norm: float = 1.0,
    ) -> None:
        self.policy_loss = policy_loss
        self.distillation = distillation
        self.shaper = shaper
        self.reference_coefficient = at_least("model.objective.reference_coefficient", reference_coefficient, 0)
        self.reference_estimator: KLEstimator = reference_estimator
        self.entropy_coefficient = at_least("model.objective.entropy_coefficient", entropy_coefficient, 0)
        self.aggregation: Aggregation = aggregation
        self.length_norm = at_least("model.objective.length_norm", length_norm, 1)

    @property
    def needs_teacher(self) -> bool:
        """Whether any part follows a teacher. With λ = 0 it serves the reports only (gap and gate)."""
        return self.distillation is not None or self.shaper is not None

    @property
    def schedules(self) -> list[Schedule]:
        """The schedule of each part that follows the teacher; a part without one is constant."""
        parts = [part for part in (self.distillation, self.shaper) if part is not None]
        return [getattr(part, "schedule", None) or Constant() for part in parts]

    def reads_teacher(self, iteration: int) -> bool:
        """Whether an iteration needs teacher log-probs: a schedule at 0 saves the teacher's forward passes."""
        return any(schedule(iteration) > 0 for schedule in self.schedules)

    def distils(self, iteration: int) -> bool:
        """Whether an iteration's loss has the distillation."""
        return self.distillation is not None and self.distillation.scale(iteration) > 0

    def figures(self, iteration: int) -> dict[str, float]:
        """Figures of an iteration to report: ``distill/coefficient`` is λ·schedule."""
        return {} if self.distillation is None else {"distill/coefficient": self.distillation.scale(iteration)}

    @property
    def teacher_top_k(self) -> int:
        """Number of the teacher's likeliest tokens whose log-probs are needed; sys.maxsize: the vocabulary."""
        return self.distillation.estimator.top_k if self.distillation else 0

    @property
    def needs_reference(self) -> bool:
        """Whether reference log-probs are needed."""
        return self.reference_coefficient > 0

    @property
    def shapes_iteration(self) -> bool:
        """Whether ``shape`` needs all rows of an iteration at once, with their old log-probs."""
        return self.shaper is not None and self.shaper.across_rows

    def shape(self, inputs: LossInputs) -> Tensor:
        """Token advantages [B, R] after the shaper, detached; unchanged without a shaper or a teacher."""
        if self.shaper is None or inputs.teacher_logprobs is None:
            return inputs.advantages
        return self.shaper(inputs).detach()

    def validate(self, *, context: bool = True) -> None:
        """Refuse parts that contradict each other. ``context`` says whether the teacher has a privileged context.

        Raises UserError with the keys to change.
        """
        distils = self.distillation is not None and self.distillation.coefficient > 0
        if self.policy_loss is None and self.shaper is not None:
            raise UserError(
                "model.objective.shaper: changes advantages, but policy_loss is null; set it, or set shaper to null"
            )
        if self.policy_loss is None and not distils:
            raise UserError(
                "model.objective: neither policy_loss nor distillation, so there is no loss; set one of them"
            )
        if not context and (distils or self.shaper is not None):
            raise UserError(
                "model.objective: the teacher has no privileged context; set data.context or use an objective "
                "without teacher, such as sdar_pl.objectives.GRPO"
            )
        if self.distillation is not None and self.distillation.gate.signed and not self.distillation.estimator.signed:
            gate, estimator = (type(part).__name__ for part in (self.distillation.gate, self.distillation.estimator))
            raise UserError(
                f"model.objective.distillation: {gate} is below 0 where the teacher rejects the token, and {estimator} "
                "would then push away from the teacher; set gate to GapGate or estimator to Likelihood"
            )
        if self.length_norm != 1 and self.aggregation != "seq-mean-token-sum":
            raise UserError(
                "model.objective.length_norm: only for seq-mean-token-sum; set aggregation to that, or length_norm to 1"
            )
        defined = self.policy_loss.aggregation if self.policy_loss else None
        if defined is not None and self.aggregation != defined:
            raise UserError(
                f"model.objective.aggregation: {self.aggregation}, but {type(self.policy_loss).__name__} is defined "
                f"with {defined} only; set it to {defined}"
            )

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        """The loss with its gradient, the scalar terms and the per-token records (see LossOutputs)."""
        mask = inputs.mask

        def mean(values: Tensor, over: LossInputs) -> Tensor:
            total = over.total_tokens if self.aggregation == "token-mean" else over.total_rows
            return aggregate(values, over.mask, self.aggregation, total=total) / self.length_norm

        terms: dict[str, Tensor] = {}
        tokens = {"approx_kl": log_difference(inputs.behaviour, inputs.student_logprobs, mask)}
        weight = torch.zeros_like(inputs.student_logprobs)  # the teacher's share of each token's weight
        parts: list[Tensor] = []

        if inputs.teacher_logprobs is not None:
            tokens["gap"] = inputs.gap
        if self.shaper is not None and inputs.teacher_logprobs is not None and not inputs.shaped:
            if self.shaper.across_rows:
                raise UserError(
                    f"model.objective.shaper: {type(self.shaper).__name__} compares rows; call Objective.shape on all "
                    "rows of the iteration first"
                )
            advantages = self.shape(inputs)
            tokens["weight"] = weight = fill_masked(advantages - inputs.advantages, mask)
            inputs = replace(inputs, advantages=advantages)

        uncorrected = inputs.advantages
        if inputs.correction is not None:  # after the shaper, which may add to the advantages
            inputs = replace(inputs, advantages=inputs.advantages * inputs.correction)
        learning = inputs.learning
        if self.policy_loss is not None:
            values, tokens["clipped"] = self.policy_loss(learning)
            values = values if inputs.centre is None else values + uncorrected * inputs.centre
            terms["loss/policy"] = mean(values, learning)
            schedule = self.distillation.schedule if self.distillation is not None else Constant()
            parts.append(schedule.policy_factor(inputs.iteration) * terms["loss/policy"])
        reference = entropy = None
        if self.reference_coefficient > 0:
            reference = require("reference_coefficient", inputs.reference_logprobs, mask)
        if reference is not None:
            values = kl_terms(inputs.student_logprobs, reference, mask, estimator=self.reference_estimator)
            terms["loss/reference_kl"] = mean(values, learning)
            parts.append(self.reference_coefficient * terms["loss/reference_kl"])
        if self.entropy_coefficient > 0:
            entropy = require("entropy_coefficient", inputs.entropy, mask)
        if entropy is not None:
            terms["loss/entropy"] = mean(entropy, learning)
            parts.append(-self.entropy_coefficient * terms["loss/entropy"])
        if self.distillation is not None and inputs.teacher_logprobs is not None:
            scale = self.distillation.scale(inputs.iteration)
            tokens["gate"] = self.distillation.weights(inputs)
            tokens["weight"] = weight + scale * tokens["gate"]
            gate = tokens["gate"]
            if inputs.correction is not None and not self.distillation.estimator.top_k:
                # A divergence does not depend on which token was sampled: nothing is to be corrected at its position.
                gate = gate * inputs.correction
            terms["loss/distill"] = mean(self.distillation.estimator(inputs, gate), inputs)
            if scale > 0:  # with λ = 0 the term is only reported, so that the loss is GRPO's bit for bit
                parts.append(scale * terms["loss/distill"])

        # Without any part (a schedule at 0) the loss is 0 and still has a gradient, which distributed training needs.
        loss = sum(parts[1:], parts[0]) if parts else 0.0 * fill_masked(inputs.student_logprobs, mask).sum()
        terms["loss/total"] = loss
        return LossOutputs(loss, {name: value.detach() for name, value in terms.items()}, tokens)


def require(coefficient: str, values: Tensor | None, mask: Tensor) -> Tensor | None:
    """``values``; None is allowed in a blank micro-batch only. Raises UserError if real tokens lack them."""
    if values is None and bool(mask.any()):
        raise UserError(
            f"model.objective.{coefficient}: above 0, but the log-probs or entropies that it needs are missing; set it "
            "to 0"
        )
    return values
