"""LoRA as one product: y = x (W + α/r·B A)ᵀ + b, where peft computes x Wᵀ + b and α/r·(x Aᵀ) Bᵀ apart and adds them.

The products of inner dimension r and the passes over whole activations fall away; W + α/r·B A costs r multiplications
a weight and is made anew in every forward and backward, so that W itself never changes. A call of the engine's
``generate`` makes it once (``folded_once``). Exact to rounding in the dtype of the weights. Hence layers of a
quantised or bfloat16 base, and passes under autocast, are left to peft: there W would round the adapter away. So are
dropout and, outside ``generate``, passes of fewer tokens than the layer has outputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.nn.functional import linear


def fold_adapters(net: nn.Module) -> None:
    """Let the plain linear layers of a peft model fold their adapters."""
    for part in net.modules():
        if type(part) is Linear and type(part.base_layer) is nn.Linear:
            part.__class__ = FoldedLinear


def plain_parts(net: nn.Module) -> list[FoldedLinear]:
    """The layers that fold their adapters as they stand."""
    return [part for part in net.modules() if isinstance(part, FoldedLinear) and part.is_plain()]


@contextlib.contextmanager
def folded_once(net: nn.Module) -> Iterator[None]:
    """A block of passes without gradient in which no weight changes (``generate``): each layer folds its adapter once.

    The block holds the folded weights beside the base's.
    """
    parts = plain_parts(net)
    for part in parts:
        part.once = part.fold()
    try:
        yield
    finally:
        for part in parts:
            part.once = None


class FoldedLinear(Linear):  # type: ignore[misc]
    """peft's LoRA layer on ``nn.Linear`` with a forward that folds where it can."""

    #: W + α/r·B A inside ``folded_once``
    once: Tensor | None = None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs or not self.folds(x):
            return super().forward(x, *args, **kwargs)  # type: ignore[no-any-return]
        if self.once is not None and not torch.is_grad_enabled():
            return linear(x, self.once, self.base_layer.bias)
        (name,) = self.active_adapters
        base, a, b = self.base_layer, self.lora_A[name].weight, self.lora_B[name].weight
        return _Folded.apply(x, base.weight, base.bias, a, b, self.scaling[name])  # type: ignore[no-untyped-call, no-any-return]

    def fold(self) -> Tensor:
        """W + α/r·B A, without gradient."""
        (name,) = self.active_adapters
        a, b = self.lora_A[name].weight.detach(), self.lora_B[name].weight.detach()
        return torch.addmm(self.base_layer.weight.detach(), b, a, alpha=self.scaling[name])

    def folds(self, x: Tensor) -> bool:
        """Whether a pass over ``x`` [..., in] folds the adapter."""
        weight = self.base_layer.weight
        once = self.once is not None and not torch.is_grad_enabled()
        return x.dtype == weight.dtype and self.is_plain() and (once or x.numel() >= weight.numel())

    def is_plain(self) -> bool:
        """Whether the layer as it stands is W + α/r·B A, in one dtype."""
        weight, names = self.base_layer.weight, self.active_adapters
        device = "cpu" if weight.is_meta else weight.device.type  # ``plan`` puts a CPU's autocast around shapes
        return (
            not (self.disable_adapters or self.merged or self.lora_variant)
            and len(names) == 1
            and weight.dtype == self.lora_A[names[0]].weight.dtype
            and isinstance(self.lora_dropout[names[0]], nn.Identity)
            and not torch.is_autocast_enabled(device)
        )


class _Folded(torch.autograd.Function):
    """x [..., in], W [out, in], b [out] or None, A [r, in], B [out, r], α/r → [..., out]. W and b are frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, w, a, b)
        ctx.scale = scale
        return linear(x, torch.addmm(w, b, a, alpha=scale), bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        """dx = dy (W + s·B A), dA = s·(dy B)ᵀ x, dB = s·dyᵀ (x Aᵀ)."""
        x, w, a, b = ctx.saved_tensors
        dx = dy @ torch.addmm(w, b, a, alpha=ctx.scale) if ctx.needs_input_grad[0] else None
        rows, inputs = dy.flatten(0, -2), x.flatten(0, -2)
        da = ((rows @ b).t() @ inputs).mul_(ctx.scale)
        db = (rows.t() @ (inputs @ a.t())).mul_(ctx.scale)
        return dx, None, None, da, db, None
