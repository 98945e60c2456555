"""Means: weighted by hand, over updates and over ranks whose names differ."""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import Any

import pytest
import torch
from helpers.ranks import on_ranks

from sdar_pl.runtime.means import Means


def test_values_are_weighted() -> None:
    means = Means()
    means.update("a", torch.tensor([1.0, math.nan, 3.0]), torch.tensor([1.0, 0.0, 2.0]))
    means.update("a", 10.0)
    means.update("b", torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert means.compute() == {"a": pytest.approx((1 + 6 + 10) / 4), "b": 2.5}


def test_a_name_without_weight_is_omitted() -> None:
    means = Means()
    means.update("never", 5.0, 0.0)
    means.update("a", 1.0)
    assert means.compute() == {"a": 1.0}


def test_compute_keeps_the_sums_and_reset_forgets_them() -> None:
    means = Means()
    means.update("a", 1.0)
    assert means.compute() == {"a": 1.0}
    means.update("a", 3.0)
    assert means.compute() == {"a": 2.0}
    means.reset()
    means.update("b", 7.0)
    assert means.compute() == {"b": 7.0}


def test_means_of_nothing_are_empty_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Means().compute() == {}


def test_no_gradient_and_no_single_precision() -> None:
    """A million and a little: float32 would lose the little. Also where the module was converted to bfloat16."""
    means = torch.nn.ModuleList([Means()]).to(torch.bfloat16)[0]
    assert isinstance(means, Means)
    for value in (1e6, 1e-4):
        means.update("a", torch.tensor(value, dtype=torch.float64, requires_grad=True))
    assert means.compute()["a"] == pytest.approx((1e6 + 1e-4) / 2, abs=1e-9)
    assert not means.sums.requires_grad


def test_ranks_with_different_names() -> None:
    def work(updates: list[tuple[str, Any]]) -> list[dict[str, float]]:
        means = Means()
        for name, value in updates:
            means.update(name, value)
        computed = [means.compute()]
        means.update("shared", 11.0)  # added to this rank's own sums, not to those of all ranks
        computed.append(means.compute())
        means.reset()
        return [*computed, means.compute()]

    updates = [
        [("only on rank 0", 4.0), ("shared", 1.0)],
        [("shared", torch.tensor([3.0, 5.0])), ("another", 7.0)],
    ]
    first = {"another": 7.0, "only on rank 0": 4.0, "shared": 3.0}
    second = {"another": 7.0, "only on rank 0": 4.0, "shared": pytest.approx((1 + 3 + 5 + 22) / 5)}
    assert on_ranks([partial(work, part) for part in updates]) == [[first, second, {}]] * 2


def test_values_that_are_not_finite_are_left_out() -> None:
    means = Means()
    means.update("a", torch.tensor([1.0, math.nan, math.inf, 3.0]))
    means.update("b", math.nan)
    assert means.compute() == {"a": 2.0}
