"""VLLMEngine against real vLLM (slow; ``SDAR_PL_VLLM`` names the Python of its environment, docs/engines.md): the
engine contract, and servers that are not the policy's."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.engine_contract import RULES
from helpers.models import quick_to_end
from helpers.vllm import RealServer, policy_of, serving, small_model

from sdar_pl.engines import VLLMEngine
from sdar_pl.engines.vllm.client import Client
from sdar_pl.errors import UserError

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


def test_an_engine_that_ends_leaves_no_adapter(server: RealServer, model: Path, tmp_path: Path) -> None:
    engine, client = VLLMEngine([server.url], adapters=str(tmp_path)), Client(server.url, 60)
    engine.sync(policy_of(model))
    (folder,) = tmp_path.iterdir()
    assert [one["id"] for one in client.models()][1:] == [folder.name]
    del engine
    gc.collect()
    assert not folder.exists()
    assert len(client.models()) == 1


# ---------------------------------------------------------------------- servers that are not the policy's


def refused(server: RealServer, model: Path, message: str, r: int = 16, max_model_len: int | None = None) -> None:
    """The engine's first sync ends in one line with ``message``, and the server keeps no adapter."""
    with pytest.raises(UserError, match=f"^data.engine.servers: {server.url}.*{message}") as error:
        VLLMEngine([server.url], max_model_len=max_model_len).sync(policy_of(model, r))
    assert "\n" not in str(error.value)
    assert len(Client(server.url, 60).models()) == 1


def test_a_rank_limit_that_is_too_low(model: Path, tmp_path: Path) -> None:
    with serving(model, tmp_path / "log", max_lora_rank="8", max_model_len="512") as server:
        refused(server, model, "start it with --max-lora-rank of at least model.policy.lora.r")
        refused(server, model, "reads 512 tokens, .*; start it with --max-model-len 1000", max_model_len=1000)


def test_another_base(model: Path, tmp_path: Path) -> None:
    with serving(small_model(tmp_path / "other", 0.13), tmp_path / "log") as server:
        refused(server, model, f"another base model, .*; start it anew with --model {model}")


def test_raw_log_probs(model: Path, tmp_path: Path) -> None:
    with serving(model, tmp_path / "log", logprobs_mode=None) as server:
        refused(server, model, "they are raw: start it with --logprobs-mode processed_logprobs")


def test_no_updates_while_it_runs(model: Path, tmp_path: Path) -> None:
    with serving(model, tmp_path / "log", updates=False) as server:
        refused(server, model, "start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment")


def test_no_adapters_at_all(model: Path, tmp_path: Path) -> None:
    none = dict.fromkeys(("enable_lora", "max_lora_rank", "max_loras", "max_cpu_loras"))
    with serving(model, tmp_path / "log", **none) as server:
        refused(server, model, "start it with .*--enable-lora")
