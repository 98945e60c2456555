"""vLLM's command line for a policy, and a server that the engine starts itself."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

from sdar_pl.engines.vllm.client import Client
from sdar_pl.errors import UserError
from sdar_pl.policy import Policy
from sdar_pl.runtime import tethered
from sdar_pl.runtime.processes import print_line

#: ranks of adapters that vLLM accepts as a limit
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
#: environment of a server whose adapters are changed while it runs
ENVIRONMENT = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
#: seconds between two lines of progress
REPORT = 20.0


def command_line(
    policy: Policy, command: Sequence[str], arguments: Sequence[str], max_model_len: int | None
) -> list[str]:
    """The command that serves the policy's base and takes its adapters.

    Args:
        policy: decides on model, dtype, LoRA rank and quantisation.
        command: how vLLM is started: ``vllm serve``, or a Python of another environment with ``-m``.
        arguments: vLLM's own, after those of the policy; a later one wins.
        max_model_len: context length; None: the model's own.

    Raises ``UserError`` for a policy that vLLM cannot serve.
    """
    if policy.lora is None:
        raise UserError("data.engine: vLLM servers take adapters alone; add model.policy.lora")
    if policy.source.gguf_file or policy.source.random_weights:
        raise UserError(
            "data.engine: vLLM reads a model folder, this policy has a GGUF file or random weights; write it as "
            "a folder"
        )
    limit = next((rank for rank in RANKS if rank >= policy.lora.r), None)
    if limit is None:
        raise UserError(f"model.policy.lora.r: {policy.lora.r}; vLLM takes at most {RANKS[-1]}")
    dtype = str(policy.base_dtype).removeprefix("torch.")
    length = [] if max_model_len is None else ["--max-model-len", str(max_model_len)]
    quantised = ["--quantization", "bitsandbytes"] if policy.quantization == "nf4" else []
    return [
        *command,
        *(["--model"] if command[-1] != "serve" else []),  # ``vllm serve`` takes the model without a flag
        *(policy.source.located(), "--dtype", dtype, *length, *quantised),
        *("--enable-lora", "--max-lora-rank", str(limit), "--max-loras", "2", "--max-cpu-loras", "4"),
        *("--generation-config", "vllm", "--logprobs-mode", "processed_logprobs", "--enable-prompt-tokens-details"),
        *arguments,
    ]


class OwnServer:
    """A server of the engine's, which ends with this object or with the process.

    Args:
        command: vLLM's command line, without host and port.
        log: file for its output.
        port: where it listens on this machine; 0 takes a free one.
    """

    def __init__(self, command: Sequence[str], log: Path, port: int = 0) -> None:
        self.log = log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = port or free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        log.parent.mkdir(parents=True, exist_ok=True)
        whole = [*command, "--host", "127.0.0.1", "--port", str(port)]
        self.keeper: subprocess.Popen[bytes] = tethered.start(whole, {**os.environ, **ENVIRONMENT}, log)
        #: ends the server: with this object, or with the process at the latest
        self.end = weakref.finalize(self, tethered.end, self.keeper)

    def wait(self, seconds: float) -> None:
        """Wait until the server answers, with a line of progress now and then. Raises ``UserError`` with its log."""
        client, began, reported = Client(self.url, 10), time.monotonic(), time.monotonic()
        while not client.healthy():
            passed = time.monotonic() - began
            if self.keeper.poll() is not None or passed > seconds:
                self.end()
                what = "does not answer after" if passed > seconds else "has ended after"
                raise UserError(
                    f"data.engine.command: vLLM {what} {passed:.0f} s; its log {self.log} ends: {problem(self.log)}"
                )
            if time.monotonic() - reported > REPORT:
                reported = time.monotonic()
                print_line(f"vLLM is starting ({passed:.0f} s): {lines(self.log)[-1]}")
            time.sleep(0.5)


def lines(log: Path) -> list[str]:
    """The lines of a log that are not empty, each cut to its last 300 characters; at least one."""
    text = log.read_text(encoding="utf-8", errors="replace")
    return [line.strip()[-300:] for line in text.splitlines() if line.strip()] or ["nothing yet"]


def problem(log: Path) -> str:
    """The last line of a log that names an error, or the last line of all."""
    found = lines(log)
    # vLLM's last one refers to another: "Engine core initialization failed. See root cause above."
    errors = [line for line in found if ("Error" in line or "error:" in line) and "root cause" not in line]
    return (errors or found)[-1]
