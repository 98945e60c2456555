"""Low-rank adapters on a model (peft). With adapters, only these are trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from sdar_pl.checks import at_least, between, positive
from sdar_pl.errors import UserError
from sdar_pl.modeling.sources import brief


@dataclass
class LoRA:
    """Low-rank adapters (peft): W + alpha / r · B·A with A [r, in] and B [out, r] (2106.09685).

    Args:
        r: rank, ≥ 1.
        alpha: scale of the adapters, divided by ``r``.
        target_modules: "all-linear" (every linear layer but the output layer) or a list of module names.
        dropout: dropout rate of the adapters' inputs, in [0, 1). With 0 the student's log-probs at update time are the
            rollout's.
    """

    r: int = 16
    alpha: int = 32
    target_modules: str | list[str] = "all-linear"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        at_least("model.policy.lora.r", self.r, 1)
        positive("model.policy.lora.alpha", self.alpha)
        between("model.policy.lora.dropout", self.dropout, 0, 1, ends="[)")


def adapt(net: Any, lora: LoRA, folded: bool = False) -> Any:
    """Put adapters on a model, ``folded`` as in folded_lora.py.

    Raises ``UserError`` if ``target_modules`` match none of its layers.
    """
    from peft import LoraConfig, get_peft_model

    from sdar_pl.modeling.folded_lora import fold_adapters

    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )
    try:
        adapted = get_peft_model(net, config)
    except ValueError as error:
        if "arget modules" not in str(error):
            raise UserError(f"model.policy.lora: {brief(error)}") from error
        linear = sorted({name.rsplit(".", 1)[-1] for name, part in net.named_modules() if isinstance(part, nn.Linear)})
        raise UserError(
            f"model.policy.lora.target_modules: {lora.target_modules} matches nothing in this model; "
            f"its linear layers are {', '.join(linear)}"
        ) from error
    if folded:
        fold_adapters(adapted)
    return adapted
