"""LoRA as one product: peft's own values and gradients, and peft's own forward wherever folding would round."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.builders import a_row
from helpers.models import make_model, shake
from peft.tuners.lora.layer import Linear

from sdar_pl.batch import collate
from sdar_pl.engines import Request, Sampling, TransformersEngine
from sdar_pl.modeling.folded_lora import FoldedLinear, folded_once
from sdar_pl.policy import LoRA, Policy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("folded") / "qwen2"
    make_model(path, "qwen2")
    return str(path)


def built(folder: str, precision: torch.dtype = torch.float32, dropout: float = 0.0, **options: Any) -> Policy:
    policy = Policy(folder, LoRA(r=4, dropout=dropout), **{"folded_lora": True, **options})
    policy.load_in(precision)
    policy.build()
    shake(policy, 0)
    return policy


def layers(policy: Policy) -> list[FoldedLinear]:
    return [part for part in policy.net.modules() if isinstance(part, FoldedLinear)]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("precision", "close"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_values_and_gradients_are_pefts(
    folder: str, precision: torch.dtype, close: float, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = built(folder, precision, gradient_checkpointing=checkpointing)
    assert len(layers(policy)) == 14
    batch = collate([a_row(n, 90 - n, [(9, 20), (40, 80)]) for n in range(3)])
    passes = []
    folds = FoldedLinear.folds

    def counted(layer: FoldedLinear, x: torch.Tensor) -> bool:
        passes.append(folds(layer, x))
        return passes[-1]

    def values_and_gradients() -> list[torch.Tensor]:
        policy.net.zero_grad()
        found = policy.logprobs(batch, entropy=True)
        (found.values.double() * batch.mask).sum().backward()
        return [found.values, *(weight.grad for _, weight in policy.trained() if weight.grad is not None)]

    monkeypatch.setattr(FoldedLinear, "folds", counted)
    folded = values_and_gradients()
    assert passes
    assert all(passes)
    monkeypatch.setattr(FoldedLinear, "folds", lambda layer, x: False)
    wanted = values_and_gradients()
    assert len(folded) == len(wanted) == 1 + 2 * 14
    for ours, theirs in zip(folded, wanted, strict=True):
        assert (ours - theirs).norm() <= close * (1 + theirs.norm())


def test_where_folding_would_round_peft_computes(folder: str) -> None:
    def wide(policy: Policy) -> torch.Tensor:
        return torch.ones(1, 100, layers(policy)[0].in_features, dtype=policy.base_dtype)

    policy = built(folder)
    layer, x = layers(policy)[0], wide(policy)
    assert layer.folds(x)
    assert not layer.folds(x[:, :1])  # decoding
    with torch.autocast("cpu", torch.bfloat16):
        assert not layer.folds(x)
        assert torch.equal(layer(x), Linear.forward(layer, x))
    with policy.reference():
        assert not layer.folds(x)
    assert not layers(built(folder, dropout=0.1))[0].folds(x)
    narrow = built(folder, torch.bfloat16)
    assert not layers(narrow)[0].folds(wide(narrow))
    assert not layers(built(folder, quantization="nf4"))
    assert not layers(built(folder, folded_lora=False))


def test_a_rollout_folds_once(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folded, plain = built(folder), built(folder, folded_lora=False)
    made: list[FoldedLinear] = []
    fold, peft = FoldedLinear.fold, Linear.forward
    monkeypatch.setattr(FoldedLinear, "fold", lambda layer: (made.append(layer), fold(layer))[1])

    def sampled(policy: Policy) -> tuple[list[list[int]], torch.Tensor]:
        engine = TransformersEngine()
        engine.sync(policy)
        requests = [Request(n, list(range(5, 15 + 4 * n)), np.random.default_rng(n)) for n in range(3)]
        done = engine.generate(requests, Sampling(max_new_tokens=12))
        return [one.tokens for one in done], torch.tensor([x for one in done for x in one.logprobs])

    for seed in (0, 1):  # the second rollout is of other weights
        shake(folded, seed)
        shake(plain, seed)
        made.clear()
        tokens, logprobs = sampled(plain)
        with monkeypatch.context() as patch:
            patch.setattr(Linear, "forward", lambda layer, *args: pytest.fail("a pass of peft's") or peft(layer, *args))
            ours, found = sampled(folded)
        assert ours == tokens
        torch.testing.assert_close(found, logprobs, atol=1e-5, rtol=1e-5)
        assert made == layers(folded)
        assert all(layer.once is None for layer in layers(folded))


def test_what_stays_as_it_is_in_a_rollout(folder: str) -> None:
    policy = built(folder)
    layer = layers(policy)[0]
    x = torch.ones(1, 1, layer.in_features)
    with folded_once(policy.net):
        with torch.no_grad():
            assert layer.folds(x)
            torch.testing.assert_close(layer(x), Linear.forward(layer, x))
        assert not layer.folds(x), "with gradient"
    with policy.reference(), folded_once(policy.net), torch.no_grad():
        assert layer.once is None
        assert torch.equal(layer(x), layer.base_layer(x))
