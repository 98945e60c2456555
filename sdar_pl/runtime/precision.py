"""``trainer.precision``: bf16-true, 16-true and 64-true are the dtype in which the base weights are loaded.

Lightning's plugins for these precisions convert more than the weights: the adapters, in which Adam's small updates are
lost; rotary frequencies, so that later tokens lose their places; every float tensor of a batch (advantages, log-probs);
and the default dtype of what is computed meanwhile. Here adapters stay in float32 (64-true: float64), log-probs and
losses in float32 at least. The mixed precisions are Lightning's own.
"""

from __future__ import annotations

import torch
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision, Precision
from lightning.pytorch.strategies import Strategy

from sdar_pl.errors import UserError

#: true precisions → dtype of the base weights
TRUE_PRECISIONS = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}


class LoadedPrecision(Precision):
    """A true precision whose weights are loaded in its dtype: neither module nor input is converted.

    Args:
        precision: one of ``TRUE_PRECISIONS``.
    """

    def __init__(self, precision: str) -> None:
        self.precision = precision  # type: ignore[assignment]


def take_true_precision(strategy: Strategy, training: bool) -> torch.dtype | None:
    """The dtype of the base weights under a true precision, whose plugin ``LoadedPrecision`` replaces; None for others.

    Raises ``UserError`` for 16-true in ``training``: float16 without a loss scale loses small gradients.
    """
    plugin = strategy.precision_plugin
    if not isinstance(plugin, HalfPrecision | DoublePrecision | LoadedPrecision):
        return None
    if training and plugin.precision == "16-true":
        raise UserError(
            "trainer.precision: 16-true has no loss scale, so that small gradients are lost; "
            "train with 16-mixed, bf16-mixed or bf16-true"
        )
    strategy.precision_plugin = LoadedPrecision(plugin.precision)
    return TRUE_PRECISIONS[plugin.precision]
