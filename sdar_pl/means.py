"""Weighted means by name, over any number of updates and over all ranks (torchmetrics)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import MeanMetric


class Means:
    """A dictionary of ``torchmetrics.MeanMetric``. All ranks must name the same means; one that no rank has
    updated is left out of ``compute``."""

    def __init__(self, names: tuple[str, ...] = ()) -> None:
        self.metrics: dict[str, MeanMetric] = {name: self._new() for name in names}

    @staticmethod
    def _new() -> MeanMetric:
        metric = MeanMetric(nan_strategy="disable")
        metric.set_dtype(torch.float64)
        return metric

    def update(self, name: str, value: Tensor | float, weight: Tensor | float = 1.0) -> None:
        """Add values with their weights (tensors of one shape, or numbers)."""
        metric = self.metrics.setdefault(name, self._new())
        value = torch.as_tensor(value).detach().double()
        metric.to(value.device)
        metric.update(value, torch.as_tensor(weight, device=value.device).double().expand_as(value))

    def compute(self) -> dict[str, float]:
        """The means over all updates and ranks; then start afresh."""
        result = {}
        for name in sorted(self.metrics):
            metric = self.metrics[name]
            metric.update_called or metric.update(torch.zeros(()), torch.zeros(()))
            value = float(metric.compute())
            metric.reset()
            if value == value:
                result[name] = value
        return result
