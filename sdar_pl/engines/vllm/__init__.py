"""Rollouts on vLLM servers. The trainer talks HTTP to them and imports no vLLM."""

from sdar_pl.engines.vllm.engine import VLLMEngine

__all__ = ["VLLMEngine"]
