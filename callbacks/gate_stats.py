"""GateStats: gates and gaps of an iteration's tokens.

Every figure is a mean over *tokens* (``distill/turn_gap``: over turns) of the whole iteration on all ranks, neither of
the last micro-batch, nor a mean of micro-batch means. Without a teacher there are no records and nothing is logged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor

from sdar_pl.batch import Batch
from sdar_pl.callbacks.trainer_access import events_of, module_of, number_of
from sdar_pl.objectives.turns import turn_mean, turn_sum
from sdar_pl.runtime.means import Means

#: Rounding errors of gap and gate: a token within them is neither negative nor active.
NOISE = 1e-4

#: name of the figure → (the objective's record, the function of each token's record that is averaged)
FIGURES: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "gate/mean": ("gate", lambda gate: gate),
    "gate/active": ("gate", lambda gate: (gate > 0.5 + NOISE).float()),
    "gap/mean": ("gap", lambda gap: gap),
    "gap/negative_fraction": ("gap", lambda gap: (gap < -NOISE).float()),
}
#: (first, last) turn of each bucket, counted from 0; buckets widen as episodes thin out
BUCKETS = ((0, 0), (1, 2), (3, 5), (6, 11), (12, None))


def splits(turns: Tensor, advantages: Tensor) -> dict[str, Tensor]:
    """Suffix of a figure's name → which tokens [N] it covers.

    By turn: ``turns_0``, ``turns_1-2``, … ``turns_12-up``. By the sign of the advantage: ``positive_advantage``,
    ``negative_advantage`` and ``zero_advantage``, where only the distillation term teaches.
    """
    parts = {"": torch.ones_like(turns, dtype=torch.bool)}
    for first, last in BUCKETS:
        name = f"/turns_{first}" + ("" if last == first else f"-{'up' if last is None else last}")
        parts[name] = (turns >= first) & (turns <= (turns if last is None else last))
    parts["/positive_advantage"], parts["/negative_advantage"] = advantages > 0, advantages < 0
    parts["/zero_advantage"] = advantages == 0
    return parts


class GateStats(L.Callback):
    """Logs ``gate/mean``, ``gate/active`` (share of tokens with a gate above ½), ``gap/mean`` and
    ``gap/negative_fraction`` (share of tokens that the teacher finds less likely than the student does), each also
    split by turn and by sign of the advantage (``gate/mean/turns_3-5``, ``gap/mean/positive_advantage``),
    ``distill/turn_gap`` (mean |Δ| of a turn, mean over turns), and one TensorBoard histogram an iteration of rank
    0's gates and gaps.
    """

    def __init__(self) -> None:
        # For "gate" and "gap": one [3, n] (value, turn, advantage) for each micro-batch.
        self.tokens: dict[str, list[Tensor]] = {"gate": [], "gap": []}
        self.magnitudes: list[Tensor] = []  # for each micro-batch [2, n]: of the token's turn, the token's share of it

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for parts in self.tokens.values():
            parts.clear()
        self.magnitudes.clear()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        inside = batch.mask > 0
        for name, parts in self.tokens.items():
            if name in outputs["tokens"]:
                values = outputs["tokens"][name].float()
                known = inside & values.isfinite()
                parts.append(torch.stack([values, batch.turns.float(), batch.advantages.float()])[:, known].cpu())
        if "gap" in outputs["tokens"]:
            gap = outputs["tokens"]["gap"].float()
            tokens = turn_sum(torch.ones_like(gap), batch.turns, batch.mask).clamp(min=1)
            parts = [turn_mean(gap.abs(), batch.turns, batch.mask), 1 / tokens]
            self.magnitudes.append(torch.stack(parts)[:, inside].cpu())

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        means = Means().to(trainer.strategy.root_device)
        events = events_of(trainer)
        for figure, (record, measure) in FIGURES.items():
            if not self.tokens[record]:
                continue
            values, turns, advantages = torch.cat(self.tokens[record], dim=1)
            for part, inside in splits(turns, advantages).items():
                means.update(figure + part, measure(values), inside)
            if events is not None and figure.endswith("/mean") and len(values):
                events.add_histogram(f"{record}/histogram", values, number_of(trainer))
        for values, share in self.magnitudes:
            means.update("distill/turn_gap", values, share)
        module_of(trainer).write(means.compute())
