"""Optimizer and schedule of the tiny policies: Muon for the matrices (copying appears in about half the steps that
AdamW needs), AdamW for the rest. configs/warmup names them as ``scripts.tiny_optimizer.MuonAdamW``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR


def is_matrix(weight: Tensor) -> bool:
    """Whether Muon takes it: no embedding, which has one row a token and so far more rows than columns."""
    return weight.ndim == 2 and max(weight.shape) <= 4 * min(weight.shape)


class MuonAdamW(Optimizer):
    """Two optimizers as one, with a group of weights each.

    Args:
        params: the weights.
        lr: learning rate of both.
        weight_decay: of the matrices.
        beta2: of AdamW.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float, beta2: float = 0.98) -> None:
        weights = list(params)
        matrices = [weight for weight in weights if is_matrix(weight)]
        rest = [weight for weight in weights if not is_matrix(weight)]
        self.parts: list[Optimizer] = []
        if matrices:
            self.parts.append(Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
        if rest:
            self.parts.append(AdamW(rest, lr=lr, betas=(0.9, beta2), weight_decay=0.0))
        groups = [group for part in self.parts for group in part.param_groups]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "beta2": beta2})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step of both, on this optimizer's groups and state: those are saved, and changed by a schedule."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state
            part.step()
        return loss


class Ramp(LambdaLR):
    """Linear rise over ``warmup`` steps, linear fall to 2 % over ``steps``: the lower of the two.

    Args:
        optimizer: its learning rate is the highest.
        steps: optimizer steps in all.
        warmup: of them, until the learning rate is reached.
    """

    def __init__(self, optimizer: Optimizer, steps: int, warmup: int) -> None:
        self.steps, self.warmup = steps, warmup
        super().__init__(optimizer, self.rate)

    def rate(self, step: int) -> float:
        return min((step + 1) / self.warmup, max(0.02, 0.02 + 0.98 * (1 - step / self.steps)))
