"""LoRA as one product: peft's own values and gradients, and peft's own forward wherever folding would round."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.builders import a_row
from helpers.models import make_model, shake
from peft.tuners.lora.layer import Linear

from sdar_pl.batch import collate
from sdar_pl.modeling.folded_lora import FoldedLinear
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
