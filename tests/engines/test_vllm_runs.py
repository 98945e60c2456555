"""Runs on real vLLM (slow; ``SDAR_PL_VLLM`` names the Python of its environment, docs/engines.md): the engine's own
server ends with the run on every way out, and a run survives the loss of a server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from helpers.processes import descendants, running, until, words
from helpers.runs import ENVIRONMENT, command, fit_here, metrics
from helpers.vllm import READY, own_server, serving

from sdar_pl.engines.vllm.client import Answer, Client, Prompt
from sdar_pl.policy import ASSETS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("way", ["its end", "SIGINT while vLLM starts", "SIGKILL in mid-run"])
def test_the_own_server_ends_with_the_run(tmp_path: Path, way: str) -> None:
    folder, said, seen = tmp_path / "run", tmp_path / "said.txt", set[int]()
    arguments = command(tmp_path, "run", *own_server(), "--trainer.max_epochs", "2" if way == "its end" else "50")

    def look() -> bool:
        """Whether the moment has come; remembers every process of the run."""
        seen.update(descendants(run.pid))
        if way.startswith("SIGINT"):  # the API server has started the engine's process
            return any("VLLM::" in words(pid) for pid in seen)
        return way.startswith("SIGKILL") and (folder / "checkpoints" / "last.ckpt").exists()

    with said.open("w") as file:
        run = subprocess.Popen(arguments, env=ENVIRONMENT, stdout=file, stderr=file, cwd=tmp_path)
    try:
        assert until(lambda: look() or run.poll() is not None, 2 * READY)
        if way == "its end":
            assert run.returncode == 0, said.read_text()
        else:
            run.send_signal(getattr(signal, way.split()[0]))
            run.wait(120)
            assert run.returncode == (130 if "SIGINT" in way else -signal.SIGKILL), said.read_text()
        assert len(seen) >= 4, "the premise: keeper, API server, engine and worker"
        assert until(lambda: not any(map(running, seen)), 60), [words(pid) for pid in seen if running(pid)]
    finally:
        run.kill()
    if "SIGKILL" not in way:
        assert not (folder / ".adapters").exists()
        assert "Traceback" not in said.read_text()


def test_a_run_goes_on_when_one_of_two_servers_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the second iteration. No episode is lost, and what is sampled after it is the present policy's."""
    answered: Counter[str] = Counter()
    complete = Client.complete
    with (
        serving(ASSETS / "tiny-household", tmp_path / "one.log", max_model_len="1600") as one,
        serving(ASSETS / "tiny-household", tmp_path / "two.log", max_model_len="1600") as two,
    ):

        def counted(client: Client, prompt: Prompt) -> Answer:
            begun = prompt.model.endswith("-v2") and prompt.seed > 2000  # of the second iteration, and no canary
            if begun and client.url == two.url and answered[two.url] == 2:
                two.kill()
            answer = complete(client, prompt)
            answered[client.url] += begun
            return answer

        monkeypatch.setattr(Client, "complete", counted)
        monkeypatch.setenv("PYTHONWARNINGS", "default")
        servers = json.dumps([one.url, two.url])
        engine = ["--data.engine", "sdar_pl.engines.VLLMEngine", "--data.engine.init_args.servers", servers]
        with pytest.warns(UserWarning, match=f"vLLM server {two.url} is left out for now"):
            run = fit_here(tmp_path, *engine)
    assert answered[two.url] == 2
    assert answered[one.url] > 6
    log = [json.loads(line) for file in run.glob("episodes*.jsonl") for line in file.read_text().splitlines()]
    assert Counter(one["iteration"] for one in log if one["split"] == "train") == {1: 8, 2: 8}
    rows = [row for row in metrics(run) if "engine/logprob_mismatch" in row]
    assert len(rows) == 2
    assert all(row["engine/logprob_mismatch"] < 1e-4 for row in rows)
    assert not os.path.exists(run / ".adapters")
