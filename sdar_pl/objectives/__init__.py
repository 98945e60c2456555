"""Objectives, advantages and their parts. YAML names every class here as ``sdar_pl.objectives.<Name>``."""

from sdar_pl.objectives.advantages import Advantage, BatchAdvantage, GroupAdvantage
from sdar_pl.objectives.corrections import (
    Correction,
    GeometricMask,
    IcePop,
    NoCorrection,
    ScoreCentering,
    TruncatedImportance,
)
from sdar_pl.objectives.distillation import Distillation
from sdar_pl.objectives.divergences import TopKDivergence
from sdar_pl.objectives.estimators import K3, Estimator, Likelihood, Signed
from sdar_pl.objectives.gates import CentredGapGate, ConstantGate, EntropyGate, GapGate, Gate, SoftOrGate
from sdar_pl.objectives.inputs import LossInputs, LossOutputs
from sdar_pl.objectives.methods import GRPO, SDAR
from sdar_pl.objectives.objective import Objective
from sdar_pl.objectives.papers.agent_opsd import AgentOPSDShaper
from sdar_pl.objectives.papers.gats import GATS
from sdar_pl.objectives.papers.gigpo import GiGPOAdvantage
from sdar_pl.objectives.papers.grsd import GRSDShaper
from sdar_pl.objectives.papers.icsd import ICSDGate
from sdar_pl.objectives.papers.opid import OPIDShaper
from sdar_pl.objectives.papers.pcsd import PCSDGate
from sdar_pl.objectives.papers.retire_opd import RetireOPD
from sdar_pl.objectives.papers.rubricem import StageAdvantage
from sdar_pl.objectives.papers.tide import TIDE
from sdar_pl.objectives.papers.trial import TurnGate
from sdar_pl.objectives.policy_losses import CISPOLoss, ClippedPolicyLoss, GSPOLoss, PolicyLoss
from sdar_pl.objectives.schedules import Constant, Linear, Schedule
from sdar_pl.objectives.shapers import AdvantageShaper, RLSDShaper

__all__ = [
    "GATS",
    "GRPO",
    "K3",
    "SDAR",
    "TIDE",
    "Advantage",
    "AdvantageShaper",
    "AgentOPSDShaper",
    "BatchAdvantage",
    "CISPOLoss",
    "CentredGapGate",
    "ClippedPolicyLoss",
    "Constant",
    "ConstantGate",
    "Correction",
    "Distillation",
    "EntropyGate",
    "Estimator",
    "GRSDShaper",
    "GSPOLoss",
    "GapGate",
    "Gate",
    "GeometricMask",
    "GiGPOAdvantage",
    "GroupAdvantage",
    "ICSDGate",
    "IcePop",
    "Likelihood",
    "Linear",
    "LossInputs",
    "LossOutputs",
    "NoCorrection",
    "OPIDShaper",
    "Objective",
    "PCSDGate",
    "PolicyLoss",
    "RLSDShaper",
    "RetireOPD",
    "Schedule",
    "ScoreCentering",
    "Signed",
    "SoftOrGate",
    "StageAdvantage",
    "TopKDivergence",
    "TruncatedImportance",
    "TurnGate",
]
