"""VLLMEngine against real vLLM (slow; ``SDAR_PL_VLLM`` names the Python of its environment)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.engine_contract import RULES
from helpers.models import make_model, quick_to_end, shake
from helpers.vllm import serving

from sdar_pl.engines import VLLMEngine
from sdar_pl.policy import LoRA, Policy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with heads of 32, which vLLM's CPU kernels have."""
    folder = tmp_path_factory.mktemp("model")
    make_model(folder, "qwen2", hidden_size=128, intermediate_size=256, initializer_range=0.12)
    return folder


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(model, 8421, tmp_path_factory.mktemp("log") / "vllm.log") as url:
        yield url


def make_policy(model: Path) -> Policy:
    policy = Policy(str(model), LoRA(r=4, alpha=8))
    policy.build()
    shake(policy, 1)
    return policy


@pytest.mark.parametrize("rule", RULES)
def test_vllm_keeps_every_rule(server: str, model: Path, rule: str) -> None:
    RULES[rule](VLLMEngine([server]), quick_to_end(make_policy(model)))
