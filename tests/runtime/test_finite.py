"""Finite numbers: what the norm notices."""

from __future__ import annotations

import pytest
import torch

from sdar_pl.runtime.finite import blame, has_finite_norm, in_words, not_finite


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_a_norm_is_finite_or_not(value: float) -> None:
    good, bad = torch.ones(50, 3), torch.ones(7)
    assert has_finite_norm([good, bad])
    bad[3] = value
    assert not has_finite_norm([good, bad])
    assert not_finite({"good": good, "bad": bad}) == ([] if value == 1e30 else ["bad"])
    assert has_finite_norm([])


def test_words() -> None:
    assert (in_words(["a"]), in_words(["a", "b", "c"])) == ("a", "a and 2 more")
    layer = torch.nn.Linear(2, 2)
    assert blame(layer) == "all weights are finite, so the pass overflows"
    torch.nn.init.constant_(layer.bias, torch.nan)
    assert blame(layer) == "weights are not finite (bias)"
