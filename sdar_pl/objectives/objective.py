"""Objective: policy loss + reference KL − entropy bonus + gated distillation, from one micro-batch's log-probs.

    L = L_policy + c_ref · KL(policy ‖ reference) − c_ent · H + λ · L_distill

Every part is a small class; a published method is a choice of parts (methods.py, configs/objectives). The trainer
knows none of them. Left out on purpose: how log-probs and advantages come about.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from sdar_pl.checks import at_least
from sdar_pl.errors import UserError
from sdar_pl.objectives.distillation import Distillation
from sdar_pl.objectives.functional import Aggregation, KLEstimator, aggregate, fill_masked, kl_terms
from sdar_pl.objectives.inputs import LossInputs, LossOutputs
from sdar_pl.objectives.policy_losses import ClippedPolicyLoss, PolicyLoss
from sdar_pl.objectives.shapers import AdvantageShaper


class Objective:
    """One loss for one micro-batch; the sum over a step's micro-batches is the step's loss, however it is split.

    ``policy_loss`` None leaves out the policy term (OPSD). ``length_norm`` divides the token sums of
    seq-mean-token-sum by a constant (Dr. GRPO, 2503.20783: the generation limit). Raises UserError for senseless
    numbers.
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
        """Whether teacher log-probs are wanted; with λ = 0 they are only reported (gap and gate)."""
        return self.distillation is not None or self.shaper is not None

    @property
    def teacher_top_k(self) -> int:
        """Of how many of the teacher's likeliest tokens log-probs are wanted (0: none; no more than there are)."""
        return self.distillation.estimator.top_k if self.distillation else 0

    @property
    def needs_reference(self) -> bool:
        return self.reference_coefficient > 0

    @property
    def needs_entropy(self) -> bool:
        gate = self.distillation.gate if self.distillation else None
        return self.entropy_coefficient > 0 or (gate is not None and gate.needs_entropy)

    @property
    def shapes_iteration(self) -> bool:
        """Whether ``shape`` must see all rows of an iteration at once (and with their old log-probs)."""
        return self.shaper is not None and self.shaper.across_rows

    def shape(self, inputs: LossInputs) -> Tensor:
        """Token advantages [B, R] after the shaper, detached; unchanged without a shaper or a teacher."""
        if self.shaper is None or inputs.teacher_logprobs is None:
            return inputs.advantages
        return self.shaper(inputs).detach()

    def validate(self, *, context: bool = True) -> None:
        """Raises UserError for a combination that makes no sense. ``context``: is there a privileged context?"""
        distils = self.distillation is not None and self.distillation.coefficient > 0
        if self.policy_loss is None and self.shaper is not None:
            raise UserError(
                "model.objective.shaper: it changes advantages, but policy_loss is null; set one or drop the other"
            )
        if self.policy_loss is None and not distils:
            raise UserError(
                "model.objective: no policy_loss and no distillation, nothing to learn from; set one of them"
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
                "model.objective.length_norm: only seq-mean-token-sum uses it; set aggregation to that or drop it"
            )
        wanted = self.policy_loss.aggregation if self.policy_loss else None
        if wanted is not None and self.aggregation != wanted:
            raise UserError(
                f"model.objective.aggregation: {type(self.policy_loss).__name__} is a mean over rows and is only "
                f"defined with {wanted}, not with {self.aggregation}; set it to {wanted}"
            )

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        """The loss with its gradient, the scalar terms and the per-token records (see LossOutputs)."""
        total = inputs.total_tokens if self.aggregation == "token-mean" else inputs.total_rows
        mask = inputs.mask

        def mean(values: Tensor) -> Tensor:
            return aggregate(values, mask, self.aggregation, total=total) / self.length_norm

        terms: dict[str, Tensor] = {}
        tokens = {"approx_kl": fill_masked(inputs.behaviour - inputs.student_logprobs.detach(), mask)}
        parts: list[Tensor] = []

        if inputs.teacher_logprobs is not None:
            tokens["gap"] = inputs.gap
        if self.shaper is not None and inputs.teacher_logprobs is not None and not inputs.shaped:
            if self.shaper.across_rows:
                raise UserError(
                    "model.objective.shaper: it looks across rows; call shape() on the whole iteration first"
                )
            shaped = self.shape(inputs)
            tokens["weight"] = fill_masked(shaped - inputs.advantages, mask)
            inputs = replace(inputs, advantages=shaped)

        if self.policy_loss is not None:
            values, tokens["clipped"] = self.policy_loss(inputs)
            terms["loss/policy"] = mean(values)
            parts.append(terms["loss/policy"])
        if self.reference_coefficient > 0 and given("reference_coefficient", inputs.reference_logprobs, mask):
            assert inputs.reference_logprobs is not None
            values = kl_terms(
                inputs.student_logprobs, inputs.reference_logprobs, mask, estimator=self.reference_estimator
            )
            terms["loss/reference_kl"] = mean(values)
            parts.append(self.reference_coefficient * terms["loss/reference_kl"])
        if self.entropy_coefficient > 0 and given("entropy_coefficient", inputs.entropy, mask):
            assert inputs.entropy is not None
            terms["loss/entropy"] = mean(inputs.entropy)
            parts.append(-self.entropy_coefficient * terms["loss/entropy"])
        if self.distillation is not None and inputs.teacher_logprobs is not None:
            scale = self.distillation.scale(inputs.iteration)
            tokens["gate"] = self.distillation.weights(inputs)
            tokens["weight"] = tokens.get("weight", 0.0) + scale * tokens["gate"]
            values = self.distillation.estimator(inputs, tokens["gate"])
            terms["loss/distill"] = mean(values)
            if scale > 0:  # λ = 0 is GRPO bit for bit: the term is reported and never added
                parts.append(scale * terms["loss/distill"])

        # Without any part (a schedule at 0) the loss is 0 and still has a gradient, which distributed training needs.
        loss = sum(parts[1:], parts[0]) if parts else 0.0 * fill_masked(inputs.student_logprobs, mask).sum()
        terms["loss/total"] = loss
        return LossOutputs(loss, {name: value.detach() for name, value in terms.items()}, tokens)


def given(name: str, values: Tensor | None, mask: Tensor) -> bool:
    """Whether ``values`` are there; raises UserError if real tokens lack them (a blank micro-batch may)."""
    if values is None and bool(mask.any()):
        raise UserError(f"{name}: above 0, but the log-probs or entropies it needs were not given; set it to 0")
    return values is not None
