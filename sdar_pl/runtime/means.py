"""Weighted means by name, over any number of updates and over all ranks, as one torchmetrics.Metric.

One state holds all sums, so that a whole iteration's means take one collective. A ``torchmetrics.MeanMetric`` for each
name would take two collectives each, and would need the same names in the same order on all ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from sdar_pl.runtime.ranks import all_gather


class Means(Metric):
    """Sums of weight × value and of weights, by name.

    Ranks may hold different names: ``compute`` takes their union and omits names whose total weight is 0.

    Example:
        >>> means = Means()
        >>> means.update("gap/mean", torch.tensor([0.5, -1.0, 9.0]), weight=torch.tensor([1.0, 1.0, 0.0]))
        >>> means.update("train/success", 1.0)
        >>> means.compute()
        {'gap/mean': -0.25, 'train/success': 1.0}
    """

    full_state_update = False
    sums: Tensor  # [names, 2], float64

    def __init__(self) -> None:
        super().__init__(compute_with_cache=False)  # a cache on one rank alone would leave the others in the collective
        self.names: list[str] = []
        self.add_state("sums", torch.zeros(0, 2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, name: str, value: Tensor | float, weight: Tensor | float = 1.0) -> None:
        """Add values with their weights: tensors of one shape, or numbers. Values that are not finite are left out."""
        value = torch.as_tensor(value, device=self.sums.device).double()
        weight = torch.as_tensor(weight, device=self.sums.device).double().expand_as(value)
        if name not in self.names:
            self._hold([*self.names, name])
        value, weight = (part.where(value.isfinite(), 0.0) for part in (value, weight))
        self.sums[self.names.index(name)] += torch.stack([(value * weight).sum(), weight.sum()])

    def compute(self) -> dict[str, float]:
        """The means over all updates since the last ``reset``, and over all ranks. Collective."""
        rows = zip(self.names, self.sums.tolist(), strict=True)
        return {name: total / weight for name, (total, weight) in sorted(rows) if weight}

    @property
    def update_called(self) -> bool:
        """Always true: a rank without updates takes part in ``compute``, which torchmetrics warns of otherwise."""
        return True

    def reset(self) -> None:
        """Forget all updates."""
        super().reset()
        self.names = []

    def sync(self, *args: Any, **options: Any) -> None:
        """Give all ranks the same names in the same order, then sum over ranks. Collective; ``compute`` calls it."""
        if not self._is_synced and options.get("should_sync", True):
            self._hold(sorted(set().union(*all_gather(set(self.names)))))
        super().sync(*args, **options)

    def _hold(self, names: list[str]) -> None:
        """Make ``names`` the rows of ``sums``, new ones with 0."""
        table = torch.zeros(len(names), 2, dtype=torch.float64, device=self.sums.device)
        for name, row in zip(self.names, self.sums, strict=True):
            table[names.index(name)] = row
        self.names, self.sums = names, table
