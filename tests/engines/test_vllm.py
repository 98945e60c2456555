"""VLLMEngine against real vLLM (slow; ``SDAR_PL_VLLM`` names the Python of its environment, docs/engines.md): the
engine contract."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.engine_contract import RULES
from helpers.models import quick_to_end
from helpers.vllm import RealServer, policy_of

from sdar_pl.engines import VLLMEngine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("rule", RULES)
def test_vllm_keeps_every_rule(server: RealServer, model: Path, rule: str) -> None:
    RULES[rule](VLLMEngine([server.url]), quick_to_end(policy_of(model)))
