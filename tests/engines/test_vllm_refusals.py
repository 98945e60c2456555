"""Real vLLM servers that do not fit the policy (slow; ``SDAR_PL_VLLM`` names the Python of vLLM's environment,
docs/engines.md): one line with what mends it. The canary finds what an HTTP answer does not show."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.models import shake
from helpers.small_vllm import SmallVLLM
from helpers.vllm import RealServer, policy_of, serving, small_model

from sdar_pl.engines import VLLMEngine
from sdar_pl.engines.vllm.canary import Canary, CanaryError
from sdar_pl.engines.vllm.client import Client
from sdar_pl.engines.vllm.sync import adapter_weights
from sdar_pl.errors import UserError
from sdar_pl.policy import Policy
from sdar_pl.runtime.adapter_files import write_adapter_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
TOLERANCE = 2e-3


@pytest.fixture(scope="module")
def bare(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """A server whose adapters are fixed and whose log-probs are raw."""
    log = tmp_path_factory.mktemp("log") / "vllm.log"
    with serving(model, log, updates=False, logprobs_mode=None) as running:
        yield running


# ---------------------------------------------------------------------- servers of something else


def another_base(folder: Path) -> Policy:
    return policy_of(small_model(folder / "other", initializer_range=0.14))


def another_tokenizer(folder: Path) -> Policy:
    """The same pieces of text under other numbers."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    pieces = content["model"]["vocab"]
    numbers = list(pieces.values())
    content["model"]["vocab"] = dict(zip(pieces, [*numbers[1:], numbers[0]], strict=True))
    file.write_text(json.dumps(content))
    return policy_of(folder)


def another_template(folder: Path) -> Policy:
    file = folder / "chat_template.jinja"
    file.write_text(file.read_text() + "Think.")
    return policy_of(folder)


OTHERS: dict[str, tuple[Callable[[Path], Policy], str]] = {
    "base": (another_base, r"nats from the trainer's .* another base model.* start it anew with --model \S+/other"),
    "tokenizer": (another_tokenizer, "its tokenizer is another; start it with --tokenizer "),
    "template": (another_template, "its chat template is another; start it with --chat-template"),
    "rank limit": (lambda folder: policy_of(folder, r=32), "--max-lora-rank of at least model.policy.lora.r"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_server_of_another_policy_is_refused_and_keeps_nothing(
    server: RealServer, model: Path, tmp_path: Path, what: str
) -> None:
    make, message = OTHERS[what]
    policy = make(Path(shutil.copytree(model, tmp_path / "model")))
    with pytest.raises(UserError, match=f"^data.engine.servers: {server.url}: .*{message}") as error:
        VLLMEngine([server.url]).sync(policy)
    assert "\n" not in str(error.value)
    assert not server.adapters()


def test_a_short_context_and_mixed_versions_are_refused(server: RealServer, model: Path) -> None:
    policy = policy_of(model)
    with pytest.raises(UserError, match=r"reads 2048 tokens, .* is 4096; start it with --max-model-len 4096"):
        VLLMEngine([server.url], max_model_len=4096).sync(policy)
    other = SmallVLLM(copy.deepcopy(policy))
    other.version = "0.1.0"
    with other.running() as url, pytest.raises(UserError, match=f"different versions of vLLM .*{url}: 0.1.0"):
        VLLMEngine([server.url, url]).sync(policy)


def test_a_server_without_updates_of_adapters_and_one_with_raw_log_probs(bare: RealServer, model: Path) -> None:
    policy = policy_of(model)
    with pytest.raises(UserError, match=r"start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"):
        VLLMEngine([bare.url]).sync(policy)
    with policy.reference(), pytest.raises(UserError, match=r"raw: start it with --logprobs-mode processed_logprobs"):
        VLLMEngine([bare.url]).sync(policy)


# ---------------------------------------------------------------------- what an answer does not show


def test_the_canary_finds_a_stale_cache(server: RealServer, model: Path) -> None:
    """New weights under the old name and path: vLLM goes on with the prefixes that the old weights have cached."""
    policy, name = policy_of(model), "reused"
    client = Client(server.url, 60)
    folder = model.parent / "reused"

    def load(seed: int, **more: bool) -> None:
        shake(policy, seed)
        write_adapter_folder(adapter_weights(policy), vars(policy.lora), str(model), folder)
        client._call("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder), **more}, 120)

    try:
        load(1)
        Canary(policy, name, TOLERANCE).check(client)
        load(2, load_inplace=True)
        with pytest.raises(CanaryError, match="a stale cache"):
            Canary(policy, name, TOLERANCE).check(client)
    finally:
        client.unload(name)


def test_the_canary_finds_an_older_adapter_and_the_base(server: RealServer, model: Path) -> None:
    policy = policy_of(model)
    engine = VLLMEngine([server.url])
    engine.sync(policy)
    client, (name,) = Client(server.url, 60), server.adapters()
    Canary(policy, name, TOLERANCE).check(client)
    base = str(client.models()[0]["id"])
    with pytest.raises(CanaryError, match="they are the base model's: the adapter is dropped"):
        Canary(policy, base, TOLERANCE).check(client)
    shake(policy, 2)
    with pytest.raises(CanaryError, match="an older adapter"):
        Canary(policy, name, TOLERANCE).check(client)
