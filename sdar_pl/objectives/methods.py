"""GRPO and SDAR as one class each, with the parts' arguments as their own. All other methods are configs/objectives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

from sdar_pl.checks import one_of
from sdar_pl.errors import UserError
from sdar_pl.objectives.distillation import Distillation
from sdar_pl.objectives.functional import Aggregation
from sdar_pl.objectives.gates import CentredGapGate, EntropyGate, GapGate, Gate, SoftOrGate
from sdar_pl.objectives.objective import Objective
from sdar_pl.objectives.policy_losses import ClippedPolicyLoss
from sdar_pl.objectives.schedules import Constant, Schedule

GateName = Literal["gap", "entropy", "soft-or", "centred"]


def gate_by_name(name: GateName, beta: float, normalise: bool) -> Gate:
    """The gate of that name. Raises UserError if there is none."""
    if name == "gap":
        return GapGate(beta)
    if name == "centred":
        return CentredGapGate(beta)
    if name == "entropy":
        return EntropyGate(beta, normalise)
    one_of("model.objective.gate", name, get_args(GateName))
    return SoftOrGate(beta, normalise)


@contextmanager
def own_keys() -> Iterator[None]:
    """Errors of the parts that GRPO and SDAR make name GRPO's and SDAR's own keys: ``model.objective.beta``."""
    try:
        yield
    except UserError as error:
        raise UserError(re.sub(r"^model\.objective\.[\w.]+\.(\w+):", r"model.objective.\1:", str(error))) from None


class GRPO(Objective):
    """Group-relative policy optimisation (2402.03300): the clipped policy loss, no teacher.

    Args:
        clip_low: the ratio ρ = π_θ/π_old is clipped at 1 − ``clip_low``, 0 to 1.
        clip_high: the ratio ρ is clipped at 1 + ``clip_high``, ≥ 0.
        dual_clip: where A < 0 the loss is at most −A·``dual_clip``, ≥ 1; null: no limit.
        reference_coefficient: c_ref ≥ 0, weight of the KL divergence from the reference view (adapters off).
        entropy_coefficient: c_ent ≥ 0, weight of the entropy bonus, per nat.
        aggregation: from tokens to the loss: token-mean, seq-mean-token-mean or seq-mean-token-sum (see Objective).
    """

    def __init__(
        self,
        clip_low: float = 0.2,
        clip_high: float = 0.2,
        dual_clip: float | None = 3.0,
        reference_coefficient: float = 0.0,
        entropy_coefficient: float = 0.0,
        aggregation: Aggregation = "token-mean",
    ) -> None:
        with own_keys():
            policy_loss = ClippedPolicyLoss(clip_low, clip_high, dual_clip)
        super().__init__(
            policy_loss,
            reference_coefficient=reference_coefficient,
            entropy_coefficient=entropy_coefficient,
            aggregation=aggregation,
        )


class SDAR(Objective):
    """GRPO + λ·Σ g·(log π_T − log π_θ)/Σm with the detached gate g = σ(βΔ) (SDAR, 2605.15155).

    Args:
        coefficient: λ ≥ 0, 0.01 in the paper. 0 is GRPO bit for bit, with gap and gate still reported.
        beta: slope β ≥ 0 of the gate, in 1/nat; 5 in the paper.
        gate: weight of each token: gap σ(βΔ), entropy, soft-or, or our centred σ(βΔ) − ½. See GapGate,
            EntropyGate, SoftOrGate, CentredGapGate.
        normalise: bound the entropy and the gap in the gates entropy and soft-or (our choice).
        schedule: factor on λ at each iteration.
        clip_low: the ratio ρ = π_θ/π_old is clipped at 1 − ``clip_low``, 0 to 1.
        clip_high: the ratio ρ is clipped at 1 + ``clip_high``, ≥ 0.
        dual_clip: where A < 0 the loss is at most −A·``dual_clip``, ≥ 1; null: no limit.
        reference_coefficient: c_ref ≥ 0, weight of the KL divergence from the reference view (adapters off).
        entropy_coefficient: c_ent ≥ 0, weight of the entropy bonus, per nat.
        aggregation: from tokens to the loss: token-mean, seq-mean-token-mean or seq-mean-token-sum (see Objective).
    """

    def __init__(
        self,
        coefficient: float = 0.01,
        beta: float = 5.0,
        gate: GateName = "gap",
        normalise: bool = False,
        schedule: Schedule = Constant(),  # noqa: B008 – immutable
        clip_low: float = 0.2,
        clip_high: float = 0.2,
        dual_clip: float | None = 3.0,
        reference_coefficient: float = 0.0,
        entropy_coefficient: float = 0.0,
        aggregation: Aggregation = "token-mean",
    ) -> None:
        with own_keys():
            policy_loss = ClippedPolicyLoss(clip_low, clip_high, dual_clip)
            distillation = Distillation(
                gate=gate_by_name(gate, beta, normalise), coefficient=coefficient, schedule=schedule
            )
        super().__init__(
            policy_loss,
            distillation,
            reference_coefficient=reference_coefficient,
            entropy_coefficient=entropy_coefficient,
            aggregation=aggregation,
        )
