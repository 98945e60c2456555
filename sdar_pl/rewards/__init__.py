"""Rewards of training: what an episode's reward is made of, before the advantage. YAML: ``data.rewards``."""

from sdar_pl.rewards.base import GroupReward, shape_rewards
from sdar_pl.rewards.judge import Judge
from sdar_pl.rewards.outcome import Outcome
from sdar_pl.rewards.path_efficiency import PathEfficiency
from sdar_pl.rewards.reward_sum import RewardSum
from sdar_pl.rewards.rubrics import FindsEvidence, KeepsFormat, Mentions, RepeatsNothing, Rubric, Rule, Succeeds
from sdar_pl.rewards.stage_rewards import StageRewards
from sdar_pl.rewards.tool_use import ToolUse

__all__ = [
    "FindsEvidence",
    "GroupReward",
    "Judge",
    "KeepsFormat",
    "Mentions",
    "Outcome",
    "PathEfficiency",
    "RepeatsNothing",
    "RewardSum",
    "Rubric",
    "Rule",
    "StageRewards",
    "Succeeds",
    "ToolUse",
    "shape_rewards",
]
