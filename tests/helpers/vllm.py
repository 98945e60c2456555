"""Real vLLM servers for tests. ``SDAR_PL_VLLM`` names the Python of a virtual environment that has vLLM."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from _common import vllm_on_cpu

from helpers.models import make_model, shake
from helpers.processes import descendants
from sdar_pl.engines.vllm.client import Client
from sdar_pl.engines.vllm.launch import OwnServer
from sdar_pl.errors import UserError
from sdar_pl.policy import LoRA, Policy

#: what the engine and ``serve`` add for a float32 policy with adapters up to rank 16
FLAGS = {
    "--dtype": "float32",
    "--max-model-len": "2048",
    "--enable-lora": "",
    "--max-lora-rank": "16",
    "--max-loras": "2",
    "--max-cpu-loras": "4",
    "--generation-config": "vllm",
    "--logprobs-mode": "processed_logprobs",
    "--enable-prompt-tokens-details": "",
}
#: seconds until a server answers on a busy machine
READY = 600


def vllm() -> tuple[list[str], list[str]]:
    """Command and arguments of real vLLM; skips the test where ``SDAR_PL_VLLM`` is not set."""
    python = os.environ.get("SDAR_PL_VLLM", "")
    if not python:
        pytest.skip("SDAR_PL_VLLM does not name the Python of an environment with vLLM (docs/engines.md)")
    return vllm_on_cpu(python)


def own_server(max_model_len: int = 1600) -> list[str]:
    """Arguments of ``fit`` for an engine that starts vLLM itself."""
    command, arguments = vllm()
    engine = {"command": command, "arguments": arguments, "max_model_len": max_model_len, "start_timeout": READY}
    options = [[f"--data.engine.init_args.{name}", json.dumps(value)] for name, value in engine.items()]
    return ["--data.engine", "sdar_pl.engines.VLLMEngine", *(word for option in options for word in option)]


def at_servers(*urls: str) -> list[str]:
    """Arguments of ``fit`` for an engine with these servers."""
    engine = ["--data.engine", "sdar_pl.engines.VLLMEngine", "--data.engine.init_args.servers", json.dumps(urls)]
    return [*engine, "--data.engine.init_args.max_model_len", "1600"]


class RealServer:
    """A running vLLM.

    Args:
        command: vLLM's command line, without host and port.
        log: file for its output.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.command, self.log, self.port = command, log, 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, again at its former port, and wait until it answers."""
        self.own = OwnServer(self.command, self.log, self.port)
        self.port = int(self.own.url.rsplit(":", 1)[1])
        try:
            self.own.wait(READY)
        except UserError as error:
            pytest.fail(f"{error}\n{self.log.read_text()[-3000:]}")

    def kill(self) -> None:
        """SIGKILL, to all of its processes."""
        for pid in descendants(self.own.keeper.pid):
            os.kill(pid, signal.SIGKILL)
        self.own.end()

    def figure(self, name: str) -> float:
        """A figure of its /metrics, summed over what it tells apart, such as vllm:num_requests_running."""
        text = httpx.get(f"{self.url}/metrics", timeout=10, trust_env=False).text
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} ")))

    def adapters(self) -> list[str]:
        """Names of the adapters that it holds."""
        return Client(self.url, 10).names()[1:]


@contextmanager
def serving(model: str | Path, log: Path, *, updates: bool = True, **flags: str | None) -> Iterator[RealServer]:
    """A real server of ``model``, once it is ready.

    Args:
        model: folder of the base model.
        log: file for the server's output.
        updates: whether adapters may be loaded while it runs.
        flags: in place of ``FLAGS``, by name with ``_`` for ``-``; None leaves one out.
    """
    changed: Mapping[str, str | None] = {f"--{name.replace('_', '-')}": value for name, value in flags.items()}
    chosen = [(name, value) for name, value in {**FLAGS, **changed}.items() if value is not None]
    words: Sequence[str] = [word for pair in chosen for word in pair if word]
    forbid = [] if updates else ["env", "-u", "VLLM_ALLOW_RUNTIME_LORA_UPDATING"]
    command, arguments = vllm()
    server = RealServer([*forbid, *command, "--model", str(model), *words, *arguments], log)
    try:
        yield server
    finally:
        server.own.end()


def small_model(folder: Path, initializer_range: float = 0.12) -> Path:
    """A random model with heads of 32, which vLLM's CPU kernels have."""
    make_model(folder, "qwen2", hidden_size=128, intermediate_size=256, initializer_range=initializer_range)
    return folder


def policy_of(model: Path, r: int = 4) -> Policy:
    """A built policy of the model with random adapters."""
    policy = Policy(str(model), LoRA(r=r, alpha=8))
    policy.build()
    shake(policy, 1)
    return policy
