"""What objectives refuse, in one line that names the key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from helpers.losses import example, shaped

from sdar_pl import objectives as O
from sdar_pl.errors import UserError

NAN = float("nan")
#: class, argument, key, largest value below the range, smallest in it, what is asked for
LOWER: list[tuple[Callable[..., Any], str, str, float, float, str]] = [
    (O.Objective, "reference_coefficient", "model.objective", -1, 0, "≥ 0"),
    (O.Objective, "entropy_coefficient", "model.objective", -0.01, 0, "≥ 0"),
    (O.Objective, "length_norm", "model.objective", 0.5, 1, "≥ 1"),
    (O.GRPO, "clip_low", "model.objective", -0.2, 0, "≥ 0 and ≤ 1"),
    (O.GRPO, "clip_high", "model.objective", -0.2, 0, "≥ 0"),
    (O.GRPO, "dual_clip", "model.objective", 0.5, 1, "≥ 1"),
    (O.SDAR, "beta", "model.objective", -1, 0, "≥ 0"),
    (O.SDAR, "coefficient", "model.objective", -0.1, 0, "≥ 0"),
    (O.SDAR, "dual_clip", "model.objective", 0.5, 1, "≥ 1"),
    (O.ClippedPolicyLoss, "clip_low", "model.objective.policy_loss", -0.1, 0, "≥ 0 and ≤ 1"),
    (O.ClippedPolicyLoss, "clip_high", "model.objective.policy_loss", -0.1, 0, "≥ 0"),
    (O.ClippedPolicyLoss, "dual_clip", "model.objective.policy_loss", 0.5, 1, "≥ 1"),
    (O.GSPOLoss, "clip_low", "model.objective.policy_loss", -0.1, 0, "≥ 0 and ≤ 1"),
    (O.GSPOLoss, "clip_high", "model.objective.policy_loss", -0.1, 0, "≥ 0"),
    (O.CISPOLoss, "clip_low", "model.objective.policy_loss", -0.1, 0, "≥ 0 and ≤ 1"),
    (O.CISPOLoss, "clip_high", "model.objective.policy_loss", -0.1, 0, "≥ 0"),
    (O.Distillation, "coefficient", "model.objective.distillation", -0.1, 0, "≥ 0"),
    (O.GapGate, "beta", "model.objective.distillation.gate", -1, 0, "≥ 0"),
    (O.CentredGapGate, "beta", "model.objective.distillation.gate", -1, 0, "≥ 0"),
    (O.ICSDGate, "beta", "model.objective.distillation.gate", -1, 0, "≥ 0"),
    (O.ConstantGate, "value", "model.objective.distillation.gate", -0.5, 0, "≥ 0"),
    (O.EntropyGate, "beta", "model.objective.distillation.gate", -1, 0, "≥ 0"),
    (O.SoftOrGate, "beta", "model.objective.distillation.gate", -1, 0, "≥ 0"),
    (O.PCSDGate, "beta", "model.objective.distillation.gate", -1, 0, "≥ 0"),
    (O.PCSDGate, "gamma", "model.objective.distillation.gate", -1, 0, "≥ 0"),
    (O.PCSDGate, "window", "model.objective.distillation.gate", 0, 1, "≥ 1"),
    (O.PCSDGate, "decay", "model.objective.distillation.gate", 1.1, 1, "> 0 and ≤ 1"),
    (O.Signed, "clip", "model.objective.distillation.estimator", -1, 0, "≥ 0"),
    (O.TopKDivergence, "k", "model.objective.distillation.estimator", 0, 1, "≥ 1"),
    (O.Constant, "value", "model.objective.distillation.schedule", -1, 0, "≥ 0"),
    (O.Linear, "start", "model.objective.distillation.schedule", -1, 0, "≥ 0"),
    (O.Linear, "end", "model.objective.distillation.schedule", -1, 0, "≥ 0"),
    (O.Linear, "steps", "model.objective.distillation.schedule", 0, 1, "≥ 1"),
    (O.GATS, "window", "model.objective.distillation.schedule", 0, 1, "≥ 1"),
    (O.GATS, "teacher_success", "model.objective.distillation.schedule", 1.5, 1, "≥ 0 and ≤ 1"),
    (O.RetireOPD, "window", "model.objective.distillation.schedule", 0, 1, "≥ 1"),
    (O.RetireOPD, "share", "model.objective.distillation.schedule", 0, 0.1, "> 0"),
    (O.TIDE, "window", "model.objective.distillation.schedule", 1, 2, "≥ 2"),
    (O.TIDE, "threshold", "model.objective.distillation.schedule", -1, 0, "≥ 0"),
    (O.TIDE, "step", "model.objective.distillation.schedule", 0, 1, "> 0 and ≤ 1"),
    (O.TIDE, "decay", "model.objective.distillation.schedule", 1, 0, "≥ 0 and < 1"),
    (O.TIDE, "floor", "model.objective.distillation.schedule", -1, 0, "≥ 0 and ≤ 1"),
    (O.RLSDShaper, "mix", "model.objective.shaper", -0.1, 0, "≥ 0 and ≤ 1"),
    (O.RLSDShaper, "clip", "model.objective.shaper", -0.1, 0, "≥ 0 and ≤ 1"),
    (O.AgentOPSDShaper, "mix", "model.objective.shaper", -0.1, 0, "≥ 0 and ≤ 1"),
    (O.AgentOPSDShaper, "strength", "model.objective.shaper", -0.1, 0, "≥ 0"),
    (O.AgentOPSDShaper, "clip", "model.objective.shaper", -0.1, 0, "≥ 0 and ≤ 1"),
    (O.GRSDShaper, "coefficient", "model.objective.shaper", -0.1, 0, "≥ 0"),
    (O.GRSDShaper, "floor", "model.objective.shaper", -0.1, 0, "≥ 0 and ≤ 1"),
    (O.GRSDShaper, "clip", "model.objective.shaper", -0.1, 0, "≥ 0"),
    (O.OPIDShaper, "coefficient", "model.objective.shaper", -0.1, 0, "≥ 0"),
    (O.OPIDShaper, "clip", "model.objective.shaper", -0.1, 0, "≥ 0"),
    (O.GiGPOAdvantage, "weight", "data.advantage", -0.1, 0, "≥ 0"),
    (O.GiGPOAdvantage, "gamma", "data.advantage", -0.1, 0, "≥ 0 and ≤ 1"),
]


@pytest.mark.parametrize(("make", "name", "key", "low", "first", "wanted"), LOWER)
def test_a_number_out_of_range_is_refused(
    make: Callable[..., Any], name: str, key: str, low: float, first: float, wanted: str
) -> None:
    assert make(**{name: first})
    outside = [low, NAN, *([1.5] if wanted.endswith("≤ 1") else [])]
    for value in outside:
        with pytest.raises(UserError) as error:
            make(**{name: value})
        assert str(error.value) == f"{key}.{name}: {value:g}; must be {wanted}"
    if wanted.endswith("≤ 1"):
        assert make(**{name: 1.0})


def negative_gate(estimator: O.Estimator) -> None:
    O.Objective(distillation=O.Distillation(estimator, O.CentredGapGate())).validate()


def without(**fields: None) -> O.LossInputs:
    return replace(example(), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: O.SDAR(gate="max"), "^model.objective.gate: 'max'; must be one of gap, entropy, soft-or, centred"),  # type: ignore[arg-type]
        (lambda: O.BatchAdvantage("mean"), "^data.advantage.baseline: 'mean'; must be one of group, none"),  # type: ignore[arg-type]
        (
            lambda: O.Objective(O.GSPOLoss()).validate(),
            "^model.objective.aggregation: token-mean, .* seq-mean-token-mean",
        ),
        (lambda: O.Objective(None).validate(), "^model.objective: .* no loss; set one"),
        (lambda: O.SDAR(coefficient=0).validate(), None),
        (lambda: O.Objective(None, O.Distillation(coefficient=0)).validate(), "^model.objective: .* no loss; set one"),
        (lambda: O.Objective(None, O.Distillation(), O.RLSDShaper()).validate(), "policy_loss is null"),
        (lambda: O.Objective(length_norm=512).validate(), "^model.objective.length_norm"),
        (lambda: O.Objective(length_norm=512, aggregation="seq-mean-token-sum").validate(), None),
        (lambda: negative_gate(O.TopKDivergence()), "CentredGapGate .* TopKDivergence .* set gate to GapGate"),
        (lambda: negative_gate(O.K3(importance=True)), "CentredGapGate .* K3"),
        (lambda: negative_gate(O.Signed()), "CentredGapGate .* Signed"),
        (lambda: negative_gate(O.Likelihood()), None),
        (lambda: O.SDAR(gate="entropy")(without(entropy=None)), "entropies; .* use GapGate"),
        (lambda: O.SDAR(gate="soft-or")(without(entropy=None)), "entropies; .* use GapGate"),
        (lambda: O.SDAR().validate(context=False), "set data.context"),
        (lambda: O.Objective(shaper=O.RLSDShaper()).validate(context=False), "set data.context"),
        (lambda: O.GRPO().validate(context=False), None),
        (lambda: O.SDAR(coefficient=0).validate(context=False), None),
        (lambda: O.Objective(shaper=O.GRSDShaper())(example()), "GRSDShaper compares rows; call Objective.shape"),
        (lambda: O.GRPO(reference_coefficient=1)(without(reference_logprobs=None)), "reference_coefficient: above 0"),
        (lambda: O.GRPO(entropy_coefficient=1)(without(entropy=None)), "entropy_coefficient: above 0"),
        (lambda: O.GRPO()(without(reference_logprobs=None, entropy=None)), None),
        (lambda: O.GroupAdvantage().validate(1), "^data.group_size: 1; must be ≥ 2"),
        (lambda: O.GroupAdvantage().validate(2), None),
        (lambda: O.BatchAdvantage().validate(1), "or set data.advantage.baseline to none"),
        (lambda: O.BatchAdvantage().validate(2), None),
        (lambda: O.BatchAdvantage("none").validate(1), None),
        (
            lambda: shaped(O.GRSDShaper(), without(groups=None)),
            "GRSDShaper needs the episode, group and success of each row",
        ),
        (lambda: shaped(O.GRSDShaper(), without(success=None)), "give LossInputs.episodes, groups and success"),
        (
            lambda: shaped(O.AgentOPSDShaper(), without(episodes=None)),
            "needs the episode, group and success of each row",
        ),
    ],
)
def test_nonsense_is_refused_in_one_line_and_sense_is_not(make: Callable[[], object], line: str | None) -> None:
    if line is None:
        make()
        return
    with pytest.raises(UserError, match=line) as error:
        make()
    assert "\n" not in str(error.value)
