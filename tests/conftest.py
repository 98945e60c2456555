"""Small random models for all tests: real architectures, real tokenizer with a chat template, nothing downloaded."""

from __future__ import annotations

import os
import signal
import sys

# Before torch is imported: waiting threads give up their core, and nothing looks for files on the network.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.models import make_model, make_tokenizer, shake

torch.set_num_threads(1)
# Where SIGINT is ignored (nohup, jobs in the background), tests that send it would wait for ever, and so would the
# processes that they start: those inherit an ignored signal, but not a handler.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of random models: "qwen2" (tied embeddings) and "qwen3" (untied, wider heads)."""
    folders = {family: tmp_path_factory.mktemp(family) for family in ("qwen2", "qwen3")}
    for family, folder in folders.items():
        make_model(folder, family)
    return folders


@pytest.fixture
def make_policy(models: dict[str, Path]) -> Callable[..., Any]:
    """``make_policy("qwen2", lora=True, …)`` → a built policy; its LoRA matrices are random, B is not zero."""
    from sdar_pl.policy import LoRA, Policy

    def make(family: str = "qwen2", *, lora: bool = True, seed: int = 1, **options: Any) -> Policy:
        policy = Policy(str(models[family]), LoRA(r=4, alpha=8) if lora else None, **options)
        policy.build()
        shake(policy, seed)
        return policy

    return make


@pytest.fixture
def tokenizer() -> Iterator[Any]:
    return make_tokenizer()


@pytest.fixture(autouse=True)
def _argv(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's command line warns where ``sys.argv`` is not what it is given."""
    monkeypatch.setattr(sys, "argv", ["sdar_pl"])
