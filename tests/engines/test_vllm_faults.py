"""Two real vLLM servers (slow; ``SDAR_PL_VLLM`` names the Python of vLLM's environment, docs/engines.md): two ranks
share them; one dies in mid-iteration, or starts again without its adapters."""

from __future__ import annotations

import json
import subprocess
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.engine_contract import HOT, ask, assert_trainers, prompt
from helpers.models import shake
from helpers.processes import until
from helpers.runs import ENVIRONMENT, command, episodes, fit, metrics
from helpers.vllm import READY, RealServer, at_servers, policy_of, serving

from sdar_pl.engines import VLLMEngine
from sdar_pl.policy import ASSETS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
#: an iteration of 64 episodes, long enough to meet a server with requests in flight
LONG = ["--data.tasks_per_iteration", "8", "--data.group_size", "8", "--trainer.max_epochs", "3"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RealServer, RealServer]]:
    logs, model = tmp_path_factory.mktemp("logs"), ASSETS / "tiny-household"
    with serving(model, logs / "one.log") as one, serving(model, logs / "two.log") as two:
        yield one, two


def answered(servers: tuple[RealServer, RealServer]) -> list[float]:
    return [server.figure("vllm:request_success_total") for server in servers]


def played(run: Path) -> list[dict[str, Any]]:
    """The training episodes of all ranks."""
    lines = [line for file in run.glob("episodes*.jsonl") for line in file.read_text().splitlines()]
    return [episode for episode in map(json.loads, lines) if episode["split"] != "validation"]


def test_sdar_on_two_ranks_and_two_servers(pair: tuple[RealServer, RealServer], tmp_path: Path) -> None:
    """The ranks share the servers, and the run is that of one rank on one of them."""
    alone = fit(tmp_path, "alone", *at_servers(pair[0].url))
    before = answered(pair)
    ddp = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]
    run = fit(tmp_path, "run", *ddp, *at_servers(*(server.url for server in pair)))
    assert all(after > count + 20 for after, count in zip(answered(pair), before, strict=True)), "both are used"
    assert len(played(run)) == len(played(alone)) == 2 * 4 * 2
    for mine, theirs in zip(metrics(run), metrics(alone), strict=True):
        assert mine.keys() == theirs.keys()
        assert mine.get("engine/logprob_mismatch", 0) < 1e-4
    assert len(episodes(run) & episodes(alone)) >= 0.9 * len(episodes(alone))
    assert not any(server.adapters() for server in pair)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_share_one_server(pair: tuple[RealServer, RealServer], tmp_path: Path, strategy: str) -> None:
    """With the likeliest tokens beside the sampled ones."""
    more = ["--trainer.strategy", strategy, "--trainer.devices", "2", "--model.correction", "ScoreCentering"]
    run = fit(tmp_path, "run", *more, *at_servers(pair[0].url))
    assert Counter((episode["iteration"], episode["failed"]) for episode in played(run)) == {(1, ""): 8, (2, ""): 8}
    assert all(row.get("engine/logprob_mismatch", 0) < 1e-4 for row in metrics(run))
    assert not pair[0].adapters()


def test_a_server_that_starts_again_without_its_adapters_is_readmitted(pair: tuple[RealServer, RealServer]) -> None:
    policy = policy_of(ASSETS / "tiny-household")
    engine = VLLMEngine([server.url for server in pair], patience=60)
    engine.sync(policy)
    prompts = [prompt(n, 20) for n in range(16)]
    wanted = engine.generate(ask(prompts), HOT)
    pair[1].kill()
    engine.release(range(16))
    with pytest.warns(UserWarning, match=f"{pair[1].url} is left out for now"):
        assert [one.tokens for one in engine.generate(ask(prompts), HOT)] == [one.tokens for one in wanted]
    pair[1].start()
    assert not pair[1].adapters(), "the premise"
    engine.release(range(16))
    time.sleep(2)
    with pytest.warns(UserWarning, match=f"{pair[1].url} is back"):
        again = engine.generate(ask(prompts), HOT)
    assert_trainers(policy, prompts, again, HOT.temperature)
    assert pair[1].adapters() == pair[0].adapters() != []
    count = answered(pair)[1]
    engine.release(range(16))
    engine.generate(ask(prompts), HOT)
    assert answered(pair)[1] >= count + 8, "it has its share again"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shake(policy, 2)
        engine.sync(policy)


def test_a_server_that_is_killed_in_mid_iteration_loses_nothing(
    pair: tuple[RealServer, RealServer], tmp_path: Path
) -> None:
    arguments = command(tmp_path, "run", *at_servers(*(server.url for server in pair)), *LONG)
    said, log = tmp_path / "said.txt", tmp_path / "run" / "metrics.csv"
    with said.open("w") as file:
        run = subprocess.Popen(arguments, env=ENVIRONMENT, stdout=file, stderr=file, cwd=tmp_path)
    try:
        assert until(lambda: (log.exists() and len(metrics(log.parent)) > 1) or run.poll() is not None, READY)
        assert until(lambda: pair[1].figure("vllm:num_requests_running") > 4, READY), said.read_text()
        pair[1].kill()
        run.wait(READY)
    finally:
        run.kill()
    assert run.returncode == 0, said.read_text()
    assert f"{pair[1].url} is left out for now" in said.read_text()
    rows = metrics(log.parent)
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert Counter(episode["iteration"] for episode in played(log.parent)) == {1: 64, 2: 64, 3: 64}
    assert not any(episode["failed"] for episode in played(log.parent))
    assert all(row.get("engine/logprob_mismatch", 0) < 1e-4 for row in rows)
