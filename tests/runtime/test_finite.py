"""Finite numbers: what the norm notices, and the gradient of a bad loss."""

from __future__ import annotations

import pytest
import torch

from sdar_pl.runtime.finite import blame, has_finite_norm, in_words, not_finite, spread_to_gradient


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_a_norm_is_finite_or_not(value: float) -> None:
    good, bad = torch.ones(50, 3), torch.ones(7)
    assert has_finite_norm([good, bad])
    bad[3] = value
    assert not has_finite_norm([good, bad])
    assert not_finite({"good": good, "bad": bad}) == ([] if value == 1e30 else ["bad"])
    assert has_finite_norm([])


@pytest.mark.parametrize("value", [0.3, -3e38, 0.0])
def test_a_finite_loss_is_the_same_bit_for_bit(value: float) -> None:
    loss = torch.tensor(value, requires_grad=True)
    (spread := spread_to_gradient(loss)).backward()
    assert spread.item() == loss.item()
    assert loss.grad is not None
    assert loss.grad.item() == 1


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_bad_loss_has_a_bad_gradient(value: float) -> None:
    weight = torch.tensor(1.0, requires_grad=True)
    spread_to_gradient(weight + value).backward()
    assert weight.grad is not None
    assert weight.grad.isnan()


def test_words() -> None:
    assert (in_words(["a"]), in_words(["a", "b", "c"])) == ("a", "a and 2 more")
    layer = torch.nn.Linear(2, 2)
    assert blame(layer) == "all weights are finite, so the pass overflows"
    torch.nn.init.constant_(layer.bias, torch.nan)
    assert blame(layer) == "weights are not finite (bias)"
