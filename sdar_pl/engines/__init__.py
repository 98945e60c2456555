"""Engines generate tokens for the rollouts."""

from sdar_pl.engines.base import Completion, Engine, Request, RolloutSize, Sampling
from sdar_pl.engines.transformers import TransformersEngine
from sdar_pl.engines.vllm import VLLMEngine

__all__ = ["Completion", "Engine", "Request", "RolloutSize", "Sampling", "TransformersEngine", "VLLMEngine"]
