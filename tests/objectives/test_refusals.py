"""What objectives refuse, in one line that names the key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from helpers.losses import example, shaped

from sdar_pl import objectives as O
from sdar_pl.errors import UserError


def pushed(estimator: O.Estimator) -> None:
    O.Objective(distillation=O.Distillation(estimator, O.CentredGapGate())).validate()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: O.SDAR(beta=-1), "^model.objective.beta: -1; must be ≥ 0"),
        (lambda: O.SDAR(coefficient=-0.1), "coefficient: -0.1"),
        (lambda: O.SDAR(coefficient=float("nan")), "coefficient: nan"),
        (lambda: O.GRPO(clip_low=-0.2), "^model.objective.clip_low: -0.2; must be ≥ 0 and ≤ 1"),
        (lambda: O.GRPO(clip_high=-0.2), "clip_high"),
        (lambda: O.GRPO(dual_clip=0.5), "^model.objective.dual_clip: 0.5; must be ≥ 1"),
        (lambda: O.GRPO(reference_coefficient=-1), "reference_coefficient"),
        (lambda: O.SDAR(gate="max"), "gate: 'max'; must be one of gap, entropy"),  # type: ignore[arg-type]
        (lambda: O.RLSDShaper(mix=2), "mix: 2"),
        (lambda: O.Linear(steps=0), "schedule.steps"),
        (lambda: O.Objective(O.GSPOLoss()).validate(), "GSPOLoss .* set it to seq-mean-token-mean"),
        (lambda: O.Objective(None).validate(), "no loss; set one"),
        (lambda: O.Objective(None, O.Distillation(), O.RLSDShaper()).validate(), "policy_loss is null"),
        (lambda: O.Objective(length_norm=512).validate(), "length_norm"),
        (lambda: pushed(O.TopKDivergence()), "CentredGapGate .* TopKDivergence .* set gate to GapGate"),
        (lambda: pushed(O.K3(importance=True)), "CentredGapGate .* K3"),
        (lambda: pushed(O.Signed()), "CentredGapGate .* Signed"),
        (lambda: O.SDAR(gate="soft-or")(replace(example(), entropy=None)), "entropies; .* use GapGate"),
        (lambda: O.SDAR().validate(context=False), "set data.context"),
        (lambda: O.Objective(shaper=O.RLSDShaper()).validate(context=False), "set data.context"),
        (lambda: O.Objective(shaper=O.GRSDShaper())(example()), "call Objective.shape on all rows"),
        (lambda: O.GRPO(reference_coefficient=1)(replace(example(), reference_logprobs=None)), "reference_coefficient"),
        (lambda: O.GRPO(entropy_coefficient=1)(replace(example(), entropy=None)), "entropy_coefficient"),
        (lambda: O.GroupAdvantage().validate(1), "^data.group_size: 1; must be ≥ 2"),
        (lambda: O.BatchAdvantage().validate(1), "or set data.advantage.baseline to none"),
        (lambda: shaped(O.GRSDShaper(), replace(example(), groups=None)), "needs the group of each row"),
        (lambda: shaped(O.AgentOPSDShaper(), replace(example(), episodes=None)), "needs the episode of each row"),
    ],
)
def test_nonsense_is_refused_in_one_line(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_grpo_without_context_is_fine() -> None:
    O.GRPO().validate(context=False)
    O.SDAR(coefficient=0).validate(context=False)
    O.SDAR(gate="centred").validate()
    O.GroupAdvantage().validate(2)
    O.BatchAdvantage("none").validate(1)
