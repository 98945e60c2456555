"""vLLM's command line for a policy, ``serve``, and a server that does not start."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import CONFIGS

from sdar_pl.cli import main
from sdar_pl.engines import VLLMEngine
from sdar_pl.errors import UserError
from sdar_pl.policy import ASSETS, LoRA, Policy

QUICKSTART = str(CONFIGS / "quickstart.yaml")
VLLM = ["--data.engine", "sdar_pl.engines.VLLMEngine", "--data.engine.init_args.max_model_len", "1200"]


def test_the_flags_come_from_the_policy() -> None:
    engine = VLLMEngine(command=["/env/bin/python", "-m", "api"], arguments=["--port-less", "1"], max_model_len=900)
    line = engine.line(Policy("tiny-household", LoRA(r=20), dtype="bfloat16"))
    assert line[:4] == ["/env/bin/python", "-m", "api", "--model"]
    assert line[4] == str(ASSETS / "tiny-household")
    assert line[-2:] == ["--port-less", "1"], "the user's come last"
    for flag, value in {"--dtype": "bfloat16", "--max-lora-rank": "32", "--max-model-len": "900"}.items():
        assert line[line.index(flag) + 1] == value
    assert "--quantization" not in line
    quantised = VLLMEngine().line(Policy("tiny-household", LoRA(), quantization="nf4"))
    assert quantised[:3] == ["vllm", "serve", str(ASSETS / "tiny-household")]
    assert quantised[quantised.index("--quantization") + 1] == "bitsandbytes"


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Policy("tiny-household"), "data.engine: vLLM servers take adapters alone"),
        (Policy("tiny-household", LoRA(), random_weights=True), "a GGUF file or random weights"),
        (Policy("tiny-household", LoRA(r=1000)), "model.policy.lora.r: 1000; vLLM takes at most 512"),
    ],
)
def test_what_vllm_cannot_serve_is_refused(policy: Policy, message: str) -> None:
    with pytest.raises(UserError, match=message):
        VLLMEngine().line(policy)


def test_serve_prints_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--config", QUICKSTART, *VLLM, "--port", "8123"]) == 0
    words = shlex.split(capsys.readouterr().out)
    assert words[:3] == ["VLLM_ALLOW_RUNTIME_LORA_UPDATING=True", "vllm", "serve"]
    assert words[-2:] == ["--port", "8123"]
    assert words[words.index("--max-model-len") + 1] == "1200"


def test_a_server_that_does_not_start_shows_its_log(
    make_policy: Callable[..., Policy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDAR_PL_RUN_FOLDER", str(tmp_path))
    ends = [sys.executable, "-S", "-c", "raise RuntimeError('no kernel for this card')"]
    with pytest.raises(
        UserError, match=r"^data.engine.command: vLLM has ended after .*vllm.log.*no kernel for this card"
    ):
        VLLMEngine(command=ends).sync(make_policy())
    hangs = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
    with pytest.raises(UserError, match=r"vLLM does not answer after 1 s"):
        VLLMEngine(command=hangs, start_timeout=0.6).sync(make_policy())
