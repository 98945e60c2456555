"""configs/objectives on top of recipes: the composed objective and advantage are the method's, whatever the recipe has.

The recipe decides the weights of the reference KL and of the entropy bonus, where the method has them, no other value.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any

import pytest
import yaml
from helpers import CONFIGS
from helpers.configs import FLAGS, method_of, parsed

RECIPES = ("quickstart", "household/sdar", "alfworld/sdar", "alfworld/conversation", "alfworld/tiny")
METHODS = sorted(path.stem for path in (CONFIGS / "objectives").glob("*.yaml"))

KEPT = "the recipe's"
CLIP, NO_DUAL_CLIP = "ClippedPolicyLoss(0.2, 0.2, 3.0)", "ClippedPolicyLoss(0.2, 0.2, None)"
GROUP = "GroupAdvantage(episode, std)"
#: the GRPO of 2605.15155: what the methods of SDAR's family share
BACKBONE = {
    "policy_loss": CLIP,
    "distillation": "None",
    "shaper": "None",
    "reference_coefficient": KEPT,
    "reference_estimator": "k3",
    "entropy_coefficient": KEPT,
    "aggregation": "token-mean",
    "length_norm": "1.0",
    "advantage": GROUP,
    "max_refills": "0",
    "keep_for_distillation": "False",
    "train_with_context": "False",
}


def distils(estimator: str, gate: str, coefficient: float = 0.01, schedule: str = "Constant(1.0)") -> dict[str, str]:
    return {"distillation": f"Distillation({estimator}, {gate}, {coefficient}, {schedule})"}


NO_KL = {"reference_coefficient": "0.0"}
NO_BONUS = {"entropy_coefficient": "0.0"}
#: method → what is not the backbone's, from the papers
EXPECTED: dict[str, dict[str, str]] = {
    # 2503.14476: eq. 8 (no KL, no other term), clip-higher 0.2/0.28, dynamic sampling
    "dapo": NO_KL | NO_BONUS | {"policy_loss": "ClippedPolicyLoss(0.2, 0.28, None)", "max_refills": "3"},
    # 2503.20783: no deviation, no length in the mean, β = 0
    "dr_grpo": NO_KL
    | NO_BONUS
    | {"policy_loss": NO_DUAL_CLIP, "aggregation": "seq-mean-token-sum", "length_norm": "512.0"}
    | {"advantage": "GroupAdvantage(episode, none)"},
    # 2402.14740: REINFORCE with the leave-one-out mean as baseline; the KL is part of the reward
    "rloo": NO_BONUS
    | {"policy_loss": NO_DUAL_CLIP, "reference_estimator": "k2", "advantage": "GroupAdvantage(episode, leave-one-out)"},
    # 2505.10978: PPO's clip and a KL; ω = 1, γ = 0.95
    "gigpo": NO_BONUS | {"policy_loss": NO_DUAL_CLIP, "advantage": "GiGPOAdvantage(1.0, 0.95, episode, std)"},
    # 2501.03262, "w/ Baseline": PPO's clip, k2 as a loss
    "reinforce_pp": NO_BONUS
    | {"policy_loss": NO_DUAL_CLIP, "reference_estimator": "k2", "advantage": "BatchAdvantage(group, episode)"},
    # 2507.18071: eq. 5, "KL omitted for brevity"
    "gspo": NO_BONUS | {"policy_loss": "GSPOLoss(0.0003, 0.0004)", "aggregation": "seq-mean-token-mean"},
    # 2506.13585: eq. 4, without KL, with DAPO's dynamic sampling
    "cispo": NO_KL | NO_BONUS | {"policy_loss": "CISPOLoss(1.0, 4.0)", "max_refills": "3"},
    "grpo": {},
    "grpo_rows": {"advantage": "GroupAdvantage(row, std)"},
    "skill_grpo": {"train_with_context": "True"},
    "opsd": {"policy_loss": "None"} | distils("Likelihood()", "GapGate(5.0)"),
    "grpo_opsd_official": distils("Likelihood()", "ConstantGate(0.5)"),
    "grpo_opsd_signed": distils("Signed(5.0)", "ConstantGate(1.0)"),
    "gats": distils("Signed(5.0)", "ConstantGate(1.0)", 1.0, "GATS(5, None)"),
    "retire_opd": distils("Signed(5.0)", "ConstantGate(1.0)", 1.0, "RetireOPD(5, 0.9, None)"),
    "tide": distils("Signed(5.0)", "ConstantGate(1.0)", 1.0, "TIDE(10, 0.02, 0.02, 0.9, 0.1)"),
    "trial": distils("Signed(5.0)", "TurnGate(ConstantGate(1.0), False)"),
    "skill_sd": distils("K3(True)", "ConstantGate(1.0)", 0.001),
    "rlsd": {"shaper": "RLSDShaper(0.5, 0.2, Linear(1.0, 0.0, 100))"},
    "sdar": distils("Likelihood()", "GapGate(5.0)"),
    # 2608.09826: most of the gain of distillation is in groups whose rewards are equal
    "sdar_dynamic": distils("Likelihood()", "GapGate(5.0)") | {"max_refills": "3", "keep_for_distillation": "True"},
    "sdar_centred": distils("Likelihood()", "CentredGapGate(5.0)"),
    "sdar_entropy": distils("Likelihood()", "EntropyGate(5.0, False)"),
    "sdar_entropy_normalised": distils("Likelihood()", "EntropyGate(5.0, True)"),
    "sdar_soft_or": distils("Likelihood()", "SoftOrGate(5.0, False)"),
    "sdar_soft_or_normalised": distils("Likelihood()", "SoftOrGate(5.0, True)"),
    "sdar_reverse_kl": distils("TopKDivergence(reverse-kl, 64)", "GapGate(5.0)", 0.025),
    "sdar_forward_kl": distils("TopKDivergence(forward-kl, 64)", "GapGate(5.0)", 0.025),
    "sdar_js": distils("TopKDivergence(js, 64)", "GapGate(5.0)", 0.1),
    "agent_opsd": {"shaper": "AgentOPSDShaper(0.5, 0.2, 0.2)"},
    "grsd": {"shaper": "GRSDShaper(0.5, 0.1, 0.2)"},
    "icsd": distils("Likelihood()", "ICSDGate(5.0)"),
    "opid": {"shaper": "OPIDShaper(0.001, None, Constant(1.0))"},
    "pcsd": distils("Likelihood()", "PCSDGate(5.0, 0.5, 8, 0.9)"),
}


def hostile(class_name: str, **init_args: Any) -> dict[str, Any]:
    """A recipe of that class of objective, in which nothing is as any method has it."""
    advantage = named("BatchAdvantage", baseline="none", unit="row")
    return {
        "model": {
            "objective": named(class_name, reference_coefficient=0.5, entropy_coefficient=0.7, **init_args),
        },
        "data": {"advantage": advantage},
    }


def named(class_name: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": f"sdar_pl.objectives.{class_name}", "init_args": init_args}


OTHER_CLIP = {"clip_low": 0.9, "clip_high": 9.0, "dual_clip": 99.0}
FADING = named("Linear", start=9.0, end=8.0, steps=7)
HOSTILE = {
    "GRPO": hostile("GRPO", **OTHER_CLIP, aggregation="seq-mean-token-sum"),
    "SDAR": hostile(
        "SDAR", **OTHER_CLIP, coefficient=9.0, beta=9.0, gate="entropy", normalise=True, schedule=FADING,
        aggregation="seq-mean-token-sum",
    ),
    "Objective": hostile(
        "Objective",
        policy_loss=named("ClippedPolicyLoss", **OTHER_CLIP),
        distillation=named(
            "Distillation", estimator=named("K3", importance=True), gate=named("GapGate", beta=9.0), coefficient=9.0,
            schedule=FADING,
        ),
        shaper=named("RLSDShaper", mix=0.9, clip=0.9, schedule=FADING),
        reference_estimator="k1", aggregation="seq-mean-token-sum", length_norm=9.0,
    ),
}  # fmt: skip


def described(value: Any) -> str:
    """``Class(argument, …)`` of a part, all the way down; the text of anything else."""
    if not type(value).__module__.startswith("sdar_pl."):
        return str(value)
    arguments = [getattr(value, name) for name in inspect.signature(type(value)).parameters]
    return f"{type(value).__name__}({', '.join(map(described, arguments))})"


def composed(recipe: str | dict[str, Any], method: str) -> dict[str, str]:
    config = method_of(recipe, f"objectives/{method}.yaml")
    data = {key: config.data[key] for key in ("advantage", *FLAGS)}
    return {name: described(value) for name, value in {**vars(config.model.objective), **data}.items()}


def expected(recipe: dict[str, Any], method: str) -> dict[str, str]:
    values = recipe["model"]["objective"]["init_args"]
    wanted = BACKBONE | EXPECTED[method]
    return {key: str(values.get(key, 0.0)) if value == KEPT else value for key, value in wanted.items()}


def fast(*names: str, of: Iterable[str]) -> list[Any]:
    """``of`` as parameters; all but ``names`` are slow."""
    return [name if name in names else pytest.param(name, marks=pytest.mark.slow) for name in of]


@pytest.mark.parametrize("recipe", fast("alfworld/sdar", of=RECIPES))
@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_whole_on_a_recipe(recipe: str, method: str) -> None:
    file = f"{recipe}.yaml"
    assert composed(file, method) == expected(yaml.safe_load((CONFIGS / file).read_text(encoding="utf-8")), method)


@pytest.mark.parametrize("recipe", fast("Objective", of=HOSTILE))
@pytest.mark.parametrize("method", METHODS)
def test_nothing_of_another_recipe_s_method_stays(recipe: str, method: str) -> None:
    assert composed(HOSTILE[recipe], method) == expected(HOSTILE[recipe], method)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_states_every_argument_of_its_parts(method: str) -> None:
    """Files merge key by key: what a file does not state, an earlier one decides."""
    for path, stated in parts(yaml.safe_load((CONFIGS / "objectives" / f"{method}.yaml").read_text(encoding="utf-8"))):
        module, _, name = path.rpartition(".")
        missing = set(inspect.signature(getattr(import_module(module), name)).parameters) - stated
        assert missing <= {"reference_coefficient", "entropy_coefficient"}, path


def parts(config: Any) -> Iterator[tuple[str, set[str]]]:
    """Each class of a configuration and the arguments that are stated for it."""
    if isinstance(config, dict):
        if "class_path" in config:
            yield config["class_path"], set(config.get("init_args", {}))
        for value in config.values():
            yield from parts(value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:LightningCLI.s args")
@pytest.mark.parametrize("recipe", RECIPES[1:])  # on the quickstart: tests/test_configs.py
@pytest.mark.parametrize("method", ["dapo", "dr_grpo", "rloo", "gigpo", "reinforce_pp", "gspo", "cispo"])
def test_the_command_line_composes_the_same(recipe: str, method: str) -> None:
    config = parsed(f"{recipe}.yaml", f"objectives/{method}.yaml")
    alone = {"model": {"objective": config["model"]["objective"]}, "data": config["data"]}
    assert composed(alone, method) == composed(f"{recipe}.yaml", method)
