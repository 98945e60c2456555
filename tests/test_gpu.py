"""What only a GPU shows: steps replayed as CUDA graphs, kernels of the prefix tree, whole runs. ``pytest -m gpu``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from engines.test_slots import follow_the_weights
from engines.test_transformers import start
from helpers.engine_contract import HOT, RULES, ask, prompt
from helpers.models import quick_to_end
from helpers.runs import fit, metrics
from modeling.test_prefix_tree import some_rows

from sdar_pl.batch import collate
from sdar_pl.engines import TransformersEngine
from sdar_pl.policy import Policy

MakePolicy = Callable[..., Policy]
GPU = torch.device("cuda")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("options", [{}, {"family": "qwen3", "attention": "prefix_tree"}, {"quantization": "nf4"}])
@pytest.mark.parametrize("rule", RULES)
def test_an_engine_with_graphs_keeps_every_rule(make_policy: MakePolicy, rule: str, options: dict[str, str]) -> None:
    RULES[rule](TransformersEngine(max_rows=8), quick_to_end(make_policy(**options).to(GPU)))


@pytest.mark.parametrize("mixed", [False, True])
def test_graphs_follow_the_weights(make_policy: MakePolicy, mixed: bool) -> None:
    follow_the_weights(make_policy().to(GPU), mixed)


def test_graphs_are_captured_again_in_larger_slots(make_policy: MakePolicy) -> None:
    """Slots that outgrow their memory give it up, with every graph in it; those after them have graphs of their own."""
    policy = make_policy().to(GPU)
    slots, plain = (start(policy, slots=slots) for slots in (True, False))
    for number, (rows, length) in enumerate(((1, 40), (8, 40), (8, 600), (2, 300), (8, 600))):
        requests = ask([prompt(n, length + n) for n in range(rows)], first=10 * number)
        answers, others = ([one.tokens for one in engine.generate(requests, HOT)] for engine in (slots, plain))
        assert answers == others


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_prefix_tree_gives_the_same(make_policy: MakePolicy, dtype: str) -> None:
    """Values and gradients of padded rows, to the rounding of the dtype."""
    found = []
    for attention in ("sdpa", "prefix_tree"):
        policy = make_policy(attention=attention, dtype=dtype).to(GPU)
        batch = collate(some_rows(1)).to(GPU)
        values = policy.logprobs(batch).values
        (values * batch.mask).sum().backward()
        gradients = {name: weight.grad for name, weight in policy.trained()}
        found.append((values.detach(), gradients))
    (plain, gradients), (packed, others) = found
    tolerance = 1e-4 if dtype == "float32" else 0.2
    torch.testing.assert_close(packed, plain, atol=tolerance, rtol=0)
    for name, gradient in gradients.items():
        assert gradient is not None
        assert others[name] is not None
        assert (others[name] - gradient).norm() <= tolerance * gradient.norm() + 1e-6, name


RUNS = {
    "float32": [],
    "bf16-mixed": ["--trainer.precision", "bf16-mixed", "--model.policy.attention", "prefix_tree"],
    "NF4": ["--model.policy.quantization", "nf4", "--model.policy.dtype", "bfloat16", "--model.policy.lora.r", "8"],
    "FSDP2": ["--trainer.strategy", "fsdp2"],
    "auto": ["--data.micro_batch_tokens", "auto", "--data.engine.init_args.max_rows", "auto"],
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run(tmp_path: Path, name: str) -> None:
    """The quickstart's policy on the card: the first importance ratio is 1, so engine and trainer agree."""
    folder = fit(tmp_path, "run", "--trainer.accelerator", "gpu", *RUNS[name])
    found = [row["engine/logprob_mismatch"] for row in metrics(folder) if "engine/logprob_mismatch" in row]
    assert found
    assert max(found) < (1e-3 if name in ("float32", "FSDP2", "auto") else 0.1)
