"""VLLMEngine against real vLLM (slow; ``SDAR_PL_VLLM`` names the Python of its environment, docs/engines.md): the
engine contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.engine_contract import RULES
from helpers.models import quick_to_end
from helpers.vllm import RealServer, policy_of, serving, small_model

from sdar_pl.engines import VLLMEngine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with serving(model, tmp_path_factory.mktemp("log") / "vllm.log") as running:
        yield running


@pytest.mark.parametrize("rule", RULES)
def test_vllm_keeps_every_rule(server: RealServer, model: Path, rule: str) -> None:
    RULES[rule](VLLMEngine([server.url]), quick_to_end(policy_of(model)))
