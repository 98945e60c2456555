"""sdar_pl: self-distilled agentic reinforcement learning for small LLM agents, on PyTorch Lightning."""

__version__ = "0.1.0"
