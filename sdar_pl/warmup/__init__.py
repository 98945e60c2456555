"""Warm-up: supervised fine-tuning on demonstrations, before reinforcement learning."""

from __future__ import annotations

from sdar_pl.warmup.chat_file import ChatFile
from sdar_pl.warmup.datamodule import DemonstrationDataModule
from sdar_pl.warmup.demonstrations import Demonstration, Demonstrations
from sdar_pl.warmup.module import WarmupModule
from sdar_pl.warmup.scripted_play import ScriptedPlay

__all__ = ["ChatFile", "Demonstration", "DemonstrationDataModule", "Demonstrations", "ScriptedPlay", "WarmupModule"]
