"""What the benchmark scripts share: a model of any shape without downloads, and the machine in words."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

from sdar_pl.cli import fail
from sdar_pl.errors import UserError
from sdar_pl.policy import ASSETS
from sdar_pl.runtime.messages import quieten

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "lightning")


def run_script(main: Callable[[], object]) -> NoReturn:
    """Run a script's ``main`` and end the process: status 2 and one line for an error in the user's input."""
    quieten()
    try:
        status = main()
    except UserError as error:
        sys.exit(fail(str(error)))
    sys.exit(status if isinstance(status, int) else 0)


def vllm_on_cpu(python: str) -> tuple[list[str], list[str]]:
    """Command and arguments of vLLM's CPU build in the environment of ``python``, on one core and offline.

    Its kernels take seeded requests without chunked prefill only.
    """
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    variables = [f"{name}={value}" for name, value in environment.items()]
    arguments = ["--enforce-eager", "--no-enable-chunked-prefill", "--max-num-batched-tokens", "16384"]
    return ["env", *variables, python, "-m", "vllm.entrypoints.openai.api_server"], arguments


def model_folder(folder: Path, config: Any) -> str:
    """A model folder without weights (random_weights): this configuration and the tiny policy's tokenizer."""
    shutil.copytree(ASSETS / "tiny-household", folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    config.save_pretrained(folder)
    return str(folder)


def machine(threads: int | None = None) -> dict[str, Any]:
    """Processor, card, versions and commit."""
    import torch

    found: dict[str, Any] = {"cpu": f"{_cpu()}, {os.cpu_count()} cores", "python": platform.python_version()}
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found["gpu"] = f"{card.name}, {card.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    if threads:
        found["threads"] = threads
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    found["commit"] = done.stdout.strip() or "unknown"
    return found


def in_words(found: dict[str, Any]) -> str:
    """One line of ``machine``."""
    return ", ".join(value if name in ("cpu", "gpu") else f"{name} {value}" for name, value in found.items())


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
