"""Lean layers compute what peft's and transformers' layers do, in fewer operations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.models import make_model, shake
from modeling.test_prefix_tree import some_rows

from sdar_pl.batch import collate
from sdar_pl.modeling.lean_layers import LeanLayers, LeanLoRA, LeanNorm
from sdar_pl.policy import LoRA, Policy


@pytest.fixture(scope="module", params=["qwen2", "qwen3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("lean") / request.param
    make_model(path, request.param)
    return path


def built(folder: Path, dropout: float = 0.0, **options: Any) -> Policy:
    policy = Policy(str(folder), LoRA(r=4, dropout=dropout), **options)
    policy.build()
    shake(policy, 1)
    return policy


def parts(policy: Policy) -> list[type]:
    return [type(part) for part in policy.net.modules() if isinstance(part, (LeanLoRA, LeanNorm))]


def values_and_gradients(policy: Policy) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    batch = collate(some_rows(0))
    values = policy.logprobs(batch).values
    (values * batch.mask).sum().backward()
    return values.detach(), {name: weight.grad for name, weight in policy.trained() if weight.grad is not None}


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({}, 2e-5),
        ({"folded_lora": True}, 2e-5),
        ({"gradient_checkpointing": True, "quantization": "nf4"}, 2e-5),
        ({"dtype": "bfloat16"}, 0.1),
    ],
    ids=["float32", "folded", "nf4", "bfloat16"],
)
def test_values_and_gradients_are_pefts(folder: Path, options: dict[str, Any], tolerance: float) -> None:
    lean, plain = built(folder, lean_layers=True, **options), built(folder, **options)
    kinds = parts(lean)
    assert len([kind for kind in kinds if issubclass(kind, LeanNorm)]) > 2 * 2
    assert len([kind for kind in kinds if issubclass(kind, LeanLoRA)]) == (0 if "folded_lora" in options else 2 * 7)
    assert not parts(plain)
    assert lean.state_dict().keys() == plain.state_dict().keys()
    (values, gradients), (wanted, wanted_gradients) = values_and_gradients(lean), values_and_gradients(plain)
    torch.testing.assert_close(values, wanted, atol=tolerance, rtol=0)
    assert gradients.keys() == wanted_gradients.keys() != set()
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        assert (gradient - wanted_gradients[name]).norm() <= tolerance * (1 + wanted_gradients[name].norm()), name


def test_the_reference_has_no_adapter(folder: Path) -> None:
    lean, plain = built(folder, lean_layers=True), built(folder)
    batch = collate(some_rows(0))
    with torch.no_grad(), lean.reference(), plain.reference():
        torch.testing.assert_close(lean.logprobs(batch).values, plain.logprobs(batch).values, atol=2e-5, rtol=0)


def test_dropout_is_left_to_peft(folder: Path) -> None:
    """The same random numbers give the same values."""
    found = []
    for lean in (True, False):
        policy = built(folder, dropout=0.5, lean_layers=lean)
        torch.manual_seed(3)
        found.append(policy.logprobs(collate(some_rows(0))).values)
    torch.testing.assert_close(found[0], found[1], atol=2e-5, rtol=0)


def test_in_place_for_a_while(folder: Path) -> None:
    """The layers are lean inside only, and compute the same."""
    policy = built(folder).eval()
    batch = collate(some_rows(0))
    with torch.no_grad():
        before = policy.logprobs(batch).values
        with LeanLayers(policy.net, torch.float32).in_place():
            assert all(part.once is not None for part in policy.net.modules() if isinstance(part, LeanLoRA))
            assert parts(policy)
            inside = policy.logprobs(batch).values
        after = policy.logprobs(batch).values
    assert not parts(policy)
    assert not any("once" in vars(part) for part in policy.net.modules())
    assert torch.equal(before, after)
    torch.testing.assert_close(inside, before, atol=2e-5, rtol=0)
