"""VLLMEngine's HTTP client, sync and faults against a small server with vLLM's surface (helpers/small_vllm.py). What
vLLM itself does is tested in test_vllm.py."""

from __future__ import annotations

import copy
import gc
import random
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.engine_contract import ask, prompt
from helpers.models import shake
from helpers.servers import Peer, served_by
from helpers.small_vllm import SmallVLLM

from sdar_pl.engines import Sampling, VLLMEngine
from sdar_pl.engines.vllm.sync import digest_of
from sdar_pl.errors import UserError
from sdar_pl.policy import Policy

BRIEF = Sampling(max_new_tokens=3)


@pytest.fixture
def policy(make_policy: Callable[..., Policy]) -> Policy:
    return make_policy()


def server_of(policy: Policy, **options: Any) -> SmallVLLM:
    return SmallVLLM(copy.deepcopy(policy), **options)


def engine_of(*urls: str, **options: Any) -> VLLMEngine:
    return VLLMEngine(list(urls), **{"patience": 0.5, "concurrency": 16, **options})


def tokens(engine: VLLMEngine, count: int, sampling: Sampling = BRIEF) -> list[list[int]]:
    requests = ask([prompt(n // 4, 12) for n in range(count)])
    answers = [completion.tokens for completion in engine.generate(requests, sampling)]
    engine.release(range(count))
    return answers


# ---------------------------------------------------------------------- requests


def test_one_request_a_turn_with_its_own_seed_and_every_field(policy: Policy) -> None:
    server = server_of(policy)
    with server.running() as url:
        engine = engine_of(url)
        engine.sync(policy)
        server.calls.clear()
        completions = engine.generate(ask([prompt(1)] * 8), Sampling(temperature=0.9, max_new_tokens=4, stop=["zz"]))
    bodies = [body for path, body in server.calls if path == "/v1/completions"]
    assert len(bodies) == len({body["seed"] for body in bodies}) == 8
    assert len({tuple(one.tokens) for one in completions}) > 1, "a group of equal prompts"
    assert all(body["prompt"] == prompt(1) and body["n"] == 1 and body["logprobs"] == 0 for body in bodies)
    for name, value in {"temperature": 0.9, "top_p": 1.0, "top_k": 0, "max_tokens": 4, "stop": ["zz"]}.items():
        assert {str(body[name]) for body in bodies} == {str(value)}
    assert set(bodies[0]["stop_token_ids"]) == policy.end_tokens


def test_sessions_stay_with_their_server_and_groups_together(policy: Policy) -> None:
    servers = [server_of(policy, sampled=False) for _ in range(2)]
    with servers[0].running() as one, servers[1].running() as two:
        engine = engine_of(one, two)
        engine.sync(policy)
        seen: list[dict[tuple[int, ...], set[int]]] = []
        for turn in range(2):
            for server in servers:
                server.calls.clear()
            prompts = [prompt(n // 4, 10) + [turn] * turn for n in range(16)]
            engine.generate(ask(prompts), BRIEF)
            groups = [{tuple(b["prompt"][:10]) for p, b in s.calls if p == "/v1/completions"} for s in servers]
            assert [len(group) for group in groups] == [2, 2]
            assert not groups[0] & groups[1]
            seen.append({group: {n} for n, some in enumerate(groups) for group in some})
        assert seen[0] == seen[1]


# ---------------------------------------------------------------------- sync and canary


def test_a_version_has_a_name_and_a_path_of_its_own_on_every_server(policy: Policy, tmp_path: Path) -> None:
    servers = [server_of(policy) for _ in range(2)]
    with servers[0].running() as one, servers[1].running() as two:
        engine = engine_of(one, two, adapters=str(tmp_path))
        names = []
        for seed in (1, 2, 2):
            shake(policy, seed)
            engine.sync(policy)
            canaries = [body["prompt"] for path, body in servers[0].calls if path == "/v1/completions"]
            assert max(map(len, canaries)) > 256, "a whole block of any prefix cache"
            (name,) = {name for server in servers for name in server.adapters}
            assert [path.name for path in tmp_path.iterdir()] == [name]
            names.append(name)
        assert names[0] != names[1] == names[2], "equal weights are not loaded again"
        with policy.reference():  # the teacher Initial: the base answers
            engine.sync(policy)
            tokens(engine, 2)
        assert servers[0].calls[-1][1]["model"] == "base"


def test_an_engine_that_ends_leaves_no_adapter(policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on the servers nor in the folder: not the present one, nor one that a server declined."""
    monkeypatch.setenv("SDAR_PL_RUN_FOLDER", str(tmp_path))
    server = server_of(policy)
    with server.running() as url:
        engine = engine_of(url)
        engine.sync(policy)
        assert len(list((tmp_path / ".adapters").iterdir())) == len(server.adapters) == 1
        del engine
        gc.collect()
        assert not server.adapters
        assert not list(tmp_path.iterdir())
        server.max_rank = 2
        with pytest.raises(UserError, match="--max-lora-rank"):
            engine_of(url).sync(policy)
        assert not list(tmp_path.iterdir())


FAULTS: dict[str, tuple[Callable[[SmallVLLM], object], str]] = {
    "another base": (lambda s: s.policy.causal_lm.model.norm.weight.data.mul_(1.3), "another base model.* --model "),
    "raw log-probs": (lambda s: setattr(s, "raw", True), "--logprobs-mode processed_logprobs"),
    "no run-time updates": (lambda s: setattr(s, "runtime_updates", False), "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"),
    "rank": (lambda s: setattr(s, "max_rank", 2), "--max-lora-rank of at least model.policy.lora.r"),
    "likeliest": (lambda s: setattr(s, "max_logprobs", -1), "--max-logprobs of at least model.correction.top_k"),
    "context": (lambda s: setattr(s, "max_model_len", 500), "reads 500 tokens.* --max-model-len 1000"),
    "template": (lambda s: setattr(s, "template", "{{ messages }}"), "chat template is another"),
    "version": (lambda s: setattr(s, "version", "0.33.0"), "different versions of vLLM"),
    "name of the base": (lambda s: setattr(s, "base", "other"), "different names of the base model"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_is_not_the_policys_is_refused_and_keeps_nothing(policy: Policy, fault: str) -> None:
    good, bad = server_of(policy), server_of(policy)
    change, message = FAULTS[fault]
    change(bad)
    with good.running() as one, bad.running() as two:
        with pytest.raises(UserError, match=f"^data.engine.servers: .*{message}") as error:
            engine_of(one, two, max_model_len=1000).sync(policy)
        assert "\n" not in str(error.value)
    assert not good.adapters
    assert not bad.adapters


def test_writing_the_adapters_leaves_their_memory_to_fsdp(policy: Policy) -> None:
    """FSDP2 frees whole parameters after a sync; an array of NumPy would hold on to them."""
    digest_of(policy)
    adapters = [parameter for name, parameter in policy.named_parameters() if "lora_" in name]
    assert adapters
    assert all(parameter.untyped_storage().resizable() for parameter in adapters)


def test_another_tokenizer_is_refused(policy: Policy) -> None:
    bad = server_of(policy)
    bad.policy.tokenizer.add_tokens(["<more>"])
    decode = bad.policy.tokenizer.decode
    bad.policy.tokenizer.decode = lambda tokens: decode([(token + 1) % 290 for token in tokens])  # type: ignore[method-assign]
    with bad.running() as url, pytest.raises(UserError, match=f"{url}: its tokenizer is another; .* --tokenizer "):
        engine_of(url).sync(policy)


def test_a_stale_adapter_ends_the_run(policy: Policy) -> None:
    server = server_of(policy)
    with server.running() as url:
        engine = engine_of(url)
        engine.sync(policy)
        server.ignore_loads = True
        shake(policy, 9)
        with pytest.raises(UserError, match=r"an older adapter or a stale cache"):
            engine.sync(policy)


def test_what_is_no_server_and_what_is_not_served_is_refused(
    policy: Policy, make_policy: Callable[..., Policy]
) -> None:
    with pytest.raises(UserError, match=r"data.engine.servers: http://127.0.0.1:9 is no vLLM server that answers"):
        engine_of("http://127.0.0.1:9").sync(policy)
    with served_by(Peer()) as url, pytest.raises(UserError, match=r"is no vLLM server that answers \(.*501"):
        engine_of(url.removesuffix("/retrieve")).sync(policy)
    with pytest.raises(UserError, match=r"data.engine: vLLM servers take adapters alone"):
        engine_of("http://127.0.0.1:9").sync(make_policy(lora=False))
    with pytest.raises(UserError, match=r"data.engine.servers: none"):
        VLLMEngine([])


# ---------------------------------------------------------------------- faults


@pytest.mark.slow
def test_faults_change_nothing(policy: Policy) -> None:
    """5 % of 2,000 requests fail: nothing is lost, and every completion is that of a run without faults."""
    servers = [server_of(policy, sampled=False) for _ in range(2)]
    chance = random.Random(0)
    kinds: Counter[str] = Counter()

    def fault(path: str) -> str:
        kind = chance.choice(["500", "garbage", "drop"]) if chance.random() < 0.05 else ""
        kinds[kind] += 1
        return kind if path == "/v1/completions" else ""

    with servers[0].running() as one, servers[1].running() as two:
        engine = engine_of(one, two, patience=30)
        engine.sync(policy)
        wanted = tokens(engine, 2000)
        for server in servers:
            server.fault = fault
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert tokens(engine, 2000) == wanted
    assert sum(kinds[kind] for kind in ("500", "garbage", "drop")) > 60, "the premise"
    assert engine._fleet is not None
    assert engine._fleet.lost > 60


def test_a_dead_server_s_requests_go_to_the_other_and_it_comes_back(policy: Policy) -> None:
    first, second = server_of(policy), server_of(policy)
    with first.running() as one:
        with second.running() as two:
            engine = engine_of(one, two, patience=5)
            engine.sync(policy)
            wanted = tokens(engine, 8)
        second.adapters.clear()  # it ends, and forgets
        with pytest.warns(UserWarning, match=f"{two} is left out for now"):
            assert tokens(engine, 8) == wanted
        engine._fleet.members[1].next_try = 0  # type: ignore[union-attr]
        with second.running(int(two.rsplit(":", 1)[1])), pytest.warns(UserWarning, match=f"{two} is back"):
            assert tokens(engine, 8) == wanted
        assert second.adapters, "loaded again, and compared"


def test_a_server_without_its_adapter_loads_it_again(policy: Policy) -> None:
    server = server_of(policy)
    with server.running() as url:
        engine = engine_of(url, patience=5)
        engine.sync(policy)
        wanted = tokens(engine, 4)
        server.adapters.clear()
        with pytest.warns(UserWarning, match="is left out for now: no model sdar-"):
            assert tokens(engine, 4) == wanted


def test_a_server_that_was_out_during_a_sync_keeps_no_older_version(policy: Policy) -> None:
    servers = [server_of(policy, sampled=False) for _ in range(2)]
    with servers[0].running() as one, servers[1].running() as two:
        engine = engine_of(one, two)
        engine.sync(policy)
        servers[1].fault = lambda path: "500"
        shake(policy, 2)
        with pytest.warns(UserWarning, match=f"{two} is left out for now: HTTP 500"):
            engine.sync(policy)
        servers[1].fault = lambda path: ""
        assert servers[0].adapters.keys() != servers[1].adapters.keys(), "the premise"
        engine._fleet.members[1].next_try = 0  # type: ignore[union-attr]
        with pytest.warns(UserWarning, match=f"{two} is back"):
            tokens(engine, 2)
        assert len(servers[1].adapters) == 1
        assert servers[0].adapters.keys() == servers[1].adapters.keys()


def test_a_server_that_hangs_is_left_out(policy: Policy) -> None:
    good, bad = server_of(policy, sampled=False), server_of(policy, sampled=False)
    with good.running() as one, bad.running() as two:
        engine = engine_of(one, two, timeout=2)
        engine.sync(policy)
        wanted = tokens(engine, 8)
        bad.fault = lambda path: "hang" if path == "/v1/completions" else ""
        with pytest.warns(UserWarning, match=f"{two} is left out for now: ReadTimeout"):
            assert tokens(engine, 8) == wanted


def test_none_left_ends_the_run_in_one_line(policy: Policy) -> None:
    server = server_of(policy, sampled=False)
    with server.running() as url:
        engine = engine_of(url)
        engine.sync(policy)
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(UserError, match=r"none of the 1 servers answers any more .*start one again") as error,
    ):
        tokens(engine, 4)
    assert "\n" not in str(error.value)
