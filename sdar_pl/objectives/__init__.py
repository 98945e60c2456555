"""Objectives: what the policy learns from. Everything here can be named in YAML as ``sdar_pl.objectives.<Name>``."""

from sdar_pl.objectives.advantages import Advantage, GroupAdvantage
from sdar_pl.objectives.distillation import Distillation
from sdar_pl.objectives.estimators import K3, Estimator, Likelihood, Signed
from sdar_pl.objectives.gates import CentredGapGate, ConstantGate, EntropyGate, GapGate, Gate, SoftOrGate
from sdar_pl.objectives.inputs import LossInputs, LossOutputs
from sdar_pl.objectives.methods import GRPO, SDAR
from sdar_pl.objectives.objective import Objective
from sdar_pl.objectives.policy_losses import ClippedPolicyLoss, PolicyLoss
from sdar_pl.objectives.schedules import Constant, Linear, Schedule
from sdar_pl.objectives.shapers import AdvantageShaper, RLSDShaper

__all__ = [
    "GRPO",
    "K3",
    "SDAR",
    "Advantage",
    "AdvantageShaper",
    "CentredGapGate",
    "ClippedPolicyLoss",
    "Constant",
    "ConstantGate",
    "Distillation",
    "EntropyGate",
    "Estimator",
    "GapGate",
    "Gate",
    "GroupAdvantage",
    "Likelihood",
    "Linear",
    "LossInputs",
    "LossOutputs",
    "Objective",
    "PolicyLoss",
    "RLSDShaper",
    "Schedule",
    "Signed",
    "SoftOrGate",
]
