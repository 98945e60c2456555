"""A quantised base trains as its dequantised twin, rollouts leave no trace in it, and a whole fit runs on a CPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import numpy as np
import pytest
import torch
from helpers import ROOT

from sdar_pl.batch import Row, collate
from sdar_pl.cli import main
from sdar_pl.engines import Request, Sampling, TransformersEngine
from sdar_pl.policy import ASSETS, Policy
from sdar_pl.runtime.processes import RUN_FOLDER

REPOSITORY = ROOT
KINDS = [("nf4", "float32"), ("nf4", "bfloat16"), ("int8", "float32")]


def a_batch() -> Any:
    """Two rows of different lengths, responses at their ends."""
    rows = []
    for number, (length, response) in enumerate([(40, 12), (25, 9)]):
        tokens = np.random.default_rng(number).integers(5, 250, length).tolist()
        rows.append(Row(number, 0, tokens, list(range(length - response, length)), [0] * response, [0.0] * response))
    return collate(rows)


def gradients(policy: Policy) -> dict[str, torch.Tensor]:
    """Of the adapters, for the sum of the log-probs."""
    policy.zero_grad()
    policy.logprobs(a_batch())[0].sum().backward()
    return {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}


def roll_out(policy: Policy) -> None:
    """A batched prompt and single-token steps, in eval mode and without gradient."""
    engine = TransformersEngine()
    engine.sync(policy)
    streams = [np.random.default_rng(i) for i in range(3)]
    requests = [Request(i, list(range(10, 30 + i)), stream) for i, stream in enumerate(streams)]
    engine.generate(requests, Sampling(max_new_tokens=6))


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize(("kind", "dtype"), KINDS)
def test_a_rollout_leaves_the_gradients_as_they_were(
    make_policy: Callable[..., Policy], family: str, kind: str, dtype: str
) -> None:
    policy = make_policy(family, quantization=kind, dtype=dtype)
    before = gradients(policy)
    assert len(before) == 2 * 7 * 2  # two matrices for each of a layer's seven linear maps, two layers
    roll_out(policy)
    after = gradients(policy)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_no_layer_may_be_repacked(make_policy: Callable[..., Policy]) -> None:
    """What the test above needs on CPUs with AVX512-BF16, stated so that it fails on any other, too."""
    layers = [part for part in make_policy(quantization="nf4").modules() if isinstance(part, bnb.nn.Linear4bit)]
    assert len(layers) == 14
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize(("kind", "tolerance"), [("nf4", 1e-5), ("int8", 5e-2)])
def test_gradients_are_those_of_the_dequantised_model(
    make_policy: Callable[..., Policy], family: str, kind: str, tolerance: float
) -> None:
    """int8 also rounds the inputs of every layer, hence its tolerance."""
    quantised, plain = make_policy(family, quantization=kind), make_policy(family)
    adapters = {name: weights for name, weights in quantised.state_dict().items() if "lora_" in name}
    plain.load_state_dict(adapters, strict=False)
    whole = dict(plain.causal_lm.named_modules())
    for name, part in quantised.causal_lm.named_modules():
        if isinstance(part, bnb.nn.Linear4bit):
            whole[name].weight.data = bnb.functional.dequantize_4bit(part.weight.data, part.weight.quant_state)
        elif isinstance(part, bnb.nn.Linear8bitLt):
            whole[name].weight.data = part.weight.data * (part.weight.SCB[:, None] / 127)
    ours, theirs = gradients(quantised), gradients(plain)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert (ours[name] - theirs[name]).norm() <= tolerance * theirs[name].norm(), name


@pytest.mark.parametrize(("kind", "dtype"), KINDS)
def test_two_hundred_switches_of_the_adapters_change_no_bit(
    make_policy: Callable[..., Policy], kind: str, dtype: str
) -> None:
    policy, batch = make_policy(quantization=kind, dtype=dtype), a_batch()
    with torch.no_grad():
        with_adapters = policy.logprobs(batch)[0]
        with policy.reference():
            without = policy.logprobs(batch)[0]
        assert not torch.equal(with_adapters, without)
        for _ in range(200):
            with policy.reference():
                pass
        assert torch.equal(policy.logprobs(batch)[0], with_adapters)
        with policy.reference():
            assert torch.equal(policy.logprobs(batch)[0], without)


def test_only_adapters_are_trained_and_the_output_layer_is_not_quantised(make_policy: Callable[..., Policy]) -> None:
    policy = make_policy("qwen3", quantization="nf4", dtype="bfloat16")
    trained = [(name, p) for name, p in policy.named_parameters() if p.requires_grad]
    assert all("lora_" in name and p.dtype == torch.float32 for name, p in trained)
    assert type(policy.causal_lm.get_output_embeddings()) is torch.nn.Linear


def test_random_weights_are_quantised_too(models: dict[str, Path], make_policy: Callable[..., Policy]) -> None:
    policy = make_policy(quantization="nf4", random_weights=True)
    assert sum(isinstance(part, bnb.nn.Linear4bit) for part in policy.modules()) == 14
    roll_out(policy)


# ---------------------------------------------------------------------- through the command line


def arguments(folder: Path, model: object, *more: str) -> list[str]:
    """A fit of two iterations with few, short episodes."""
    small = {
        "trainer.default_root_dir": folder,
        "trainer.max_epochs": 2,
        "trainer.check_val_every_n_epoch": 2,
        "model.policy.model": model,
        "data.environment.init_args.validation_tasks": 2,
        "data.prompter.init_args.max_prompt_tokens": 4096,
        "data.prompter.init_args.max_teacher_tokens": 8192,
        "data.sampling.max_new_tokens": 6,
        "data.evaluation.max_new_tokens": 6,
        "data.play.max_turns": 2,
        "data.tasks_per_iteration": 2,
        "data.group_size": 2,
    }
    options = [f"--{name}={value}" for name, value in small.items()]
    return ["fit", f"--config={REPOSITORY}/configs/quickstart.yaml", *options, *more]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command line in this process → exit status."""

    def call(model: object, *more: str) -> int:
        monkeypatch.setenv(RUN_FOLDER, "")
        monkeypatch.setattr(sys, "argv", ["sdar_pl"])
        return main(arguments(tmp_path, model, *more))

    return call


CASES = [
    ("qwen2", "nf4", "float32", "bitsandbytes.optim.PagedAdamW8bit"),
    ("qwen3", "nf4", "bfloat16", "bitsandbytes.optim.AdamW8bit"),
    ("qwen2", "int8", "float32", "torch.optim.AdamW"),
]


@pytest.mark.parametrize(("family", "kind", "dtype", "optimizer"), CASES)
def test_fit(
    run: Callable[..., int], models: dict[str, Path], tmp_path: Path, family: str, kind: str, dtype: str, optimizer: str
) -> None:
    options = [f"--model.policy.quantization={kind}", f"--model.policy.dtype={dtype}"]
    assert run(models[family], *options, f"--model.optimizer={optimizer}", "--model.optimizer.init_args.lr=1e-3") == 0
    saved = torch.load(tmp_path / "quickstart/checkpoints/last.ckpt", weights_only=False)
    states = saved["optimizer_states"][0]["state"].values()
    assert len(states) == 2 * 7 * 2
    assert all("lora_" in name and weights.abs().sum() > 0 for name, weights in saved["state_dict"].items())


@pytest.mark.slow
def test_fit_of_the_tiny_policy_says_nothing_of_bitsandbytes_kernels(tmp_path: Path) -> None:
    command = arguments(tmp_path, ASSETS / "tiny-household", "--model.policy.quantization=nf4")
    done = subprocess.run([sys.executable, "-m", "sdar_pl", *command], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert "gemm_4bit" not in done.stdout + done.stderr
    assert "MatMul8bitLt" not in done.stdout + done.stderr


# ---------------------------------------------------------------------- bad input


def one_line(text: str) -> str:
    """The error that the command line printed."""
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, text
    return lines[0]


def test_a_device_without_quantisation(
    run: Callable[..., int], models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bnb, "supported_torch_devices", {"cuda"})
    assert run(models["qwen2"], "--model.policy.quantization=nf4") == 2
    assert "nf4 does not run on cpu (bitsandbytes knows cuda)" in one_line(capfd.readouterr().err)


def test_without_bitsandbytes(
    run: Callable[..., int], models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert run(models["qwen2"], "--model.policy.quantization=int8") == 2
    assert "model.policy.quantization: int8 needs bitsandbytes" in one_line(capfd.readouterr().err)


def test_quantisation_without_adapters(
    run: Callable[..., int], models: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(models["qwen2"], "--model.policy.quantization=nf4", "--model.policy.lora=null") == 2
    assert "add model.policy.lora" in one_line(capfd.readouterr().err)


def test_target_modules_that_match_nothing(
    run: Callable[..., int], models: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(models["qwen2"], "--model.policy.lora.target_modules=[query, value]") == 2
    line = one_line(capfd.readouterr().err)
    assert "model.policy.lora.target_modules: ['query', 'value'] matches nothing" in line
    assert "q_proj" in line
    assert "down_proj" in line
