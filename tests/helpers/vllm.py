"""Real vLLM servers for tests. ``SDAR_PL_VLLM`` names the Python of a virtual environment that has vLLM."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

#: a CPU build without prebuilt kernels for chunked prefill of seeded requests, on one core
ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
FLAGS = [
    *("--enable-lora", "--max-lora-rank", "16", "--max-loras", "2", "--max-cpu-loras", "4", "--dtype", "float32"),
    *("--generation-config", "vllm", "--logprobs-mode", "processed_logprobs", "--enable-prompt-tokens-details"),
    *("--enforce-eager", "--no-enable-chunked-prefill", "--max-num-batched-tokens", "16384"),
]
#: seconds until a server answers on a busy machine
READY = 420


def vllm_python() -> str:
    """The Python that has vLLM; skips the test where none is named."""
    python = os.environ.get("SDAR_PL_VLLM", "")
    if not python:
        pytest.skip("SDAR_PL_VLLM does not name the Python of an environment with vLLM (docs/engines.md)")
    return python


@contextmanager
def serving(
    model: str | Path, port: int, log: Path, length: int = 2048, extra: list[str] | None = None
) -> Iterator[str]:
    """The URL of a real server of ``model``, once it is ready."""
    command = [vllm_python(), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--max-model-len", str(length), *FLAGS, *(extra or [])]
    url = f"http://127.0.0.1:{port}"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env={**os.environ, **ENVIRONMENT}, start_new_session=True
        )
        try:
            began = time.monotonic()
            while True:
                if process.poll() is not None or time.monotonic() - began > READY:
                    pytest.fail(f"vLLM did not start: {log.read_text()[-2000:]}")
                try:
                    if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                        break
                except httpx.HTTPError:
                    pass
                time.sleep(1)
            yield url
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
