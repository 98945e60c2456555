"""Callbacks: checkpoints, gate statistics, the log of episodes, throughput, progress, and tables at the end of a run.

``sdar_pl.cli`` adds those of ``DEFAULT`` to every run, commands/lightning_cli.py PredictionFile to ``predict``.
"""

from __future__ import annotations

from sdar_pl.callbacks.answer_scores import AnswerScores
from sdar_pl.callbacks.checkpoints import Checkpoints
from sdar_pl.callbacks.episode_log import EpisodeLog
from sdar_pl.callbacks.evaluation_table import EvaluationTable
from sdar_pl.callbacks.gate_stats import GateStats
from sdar_pl.callbacks.prediction_file import PredictionFile
from sdar_pl.callbacks.progress import Progress
from sdar_pl.callbacks.summary import Summary
from sdar_pl.callbacks.teacher_panel import TeacherPanel
from sdar_pl.callbacks.throughput import Throughput
from sdar_pl.callbacks.warmup_progress import WarmupProgress
from sdar_pl.callbacks.watchdog import Watchdog

__all__ = [
    "DEFAULT",
    "WARMUP",
    "AnswerScores",
    "Checkpoints",
    "EpisodeLog",
    "EvaluationTable",
    "GateStats",
    "PredictionFile",
    "Progress",
    "Summary",
    "TeacherPanel",
    "Throughput",
    "WarmupProgress",
    "Watchdog",
]

#: callbacks of every run, in the order in which Lightning calls them
DEFAULT = (GateStats, EpisodeLog, Throughput, Progress, Summary, EvaluationTable, Watchdog, Checkpoints)
#: callbacks of every warm-up
WARMUP = (EpisodeLog, Throughput, WarmupProgress, Summary, Checkpoints)
