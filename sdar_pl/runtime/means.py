"""Weighted means by name, over any number of updates and over all ranks.

Not torchmetrics: its ``MeanMetric(nan_strategy="disable")`` leaves the weights out (1.9), its other strategies wait for
the device at every update, and it makes two collective calls for each mean, where all of them fit into one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdar_pl.runtime.ranks import all_gather, world


class Means:
    """Sums of weight × value and of weights. A name may be unknown to some ranks; one that has no weight on any rank
    is left out of ``compute``."""

    def __init__(self, names: tuple[str, ...] = ()) -> None:
        self.sums: dict[str, Tensor] = {name: self._new() for name in names}  # [2]

    @staticmethod
    def _new() -> Tensor:
        return torch.zeros(2, dtype=torch.float64)

    def update(self, name: str, value: Tensor | float, weight: Tensor | float = 1.0) -> None:
        """Add values with their weights (tensors of one shape, or numbers). Values without weight may be anything."""
        value = torch.as_tensor(value).detach().double()
        weight = torch.as_tensor(weight, device=value.device).double().expand_as(value)
        added = torch.stack([(value * weight).where(weight != 0, 0.0).sum(), weight.sum()])
        self.sums[name] = self.sums.get(name, self._new()).to(added.device) + added

    def compute(self) -> dict[str, float]:
        """The means over all updates and ranks; then start afresh."""
        names = sorted(set().union(*all_gather(set(self.sums))))
        if not names:
            return {}
        table = torch.stack([self.sums.get(name, self._new()).cpu() for name in names])
        if world() > 1:
            nccl = torch.distributed.get_backend() == "nccl"  # which knows no tensors on the CPU
            table = table.to("cuda" if nccl else "cpu")
            torch.distributed.all_reduce(table)
        self.sums = {name: self._new() for name in names}
        return {name: total / weight for name, (total, weight) in zip(names, table.tolist(), strict=True) if weight}
