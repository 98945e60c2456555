"""Layers as a decoding step computes them: the same values to rounding, in fewer kernels.

A step of one token a row is bound by the number of kernels, not by their work. peft computes base(x) + α/r·B A x as
eight, with casts to the adapters' float32 and back, where three in the base's dtype do; an RMSNorm of transformers is
eight, where torch has one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm


class DecodingLayers:
    """Other ``forward`` methods for a model's LoRA layers and norms, and copies of the adapters for them.

    Good as long as the weights stay as they are: whoever changes them makes a new one.

    Args:
        net: the model, with peft's adapters or without.
        dtype: of the base weights.
    """

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        self._forwards: list[tuple[nn.Module, Callable[[Tensor], Tensor]]] = []
        for part in net.modules():
            if isinstance(part, LoraLayer) and _is_plain(part):
                (name,) = part.active_adapters
                a, b = part.lora_A[name].weight.detach(), part.lora_B[name].weight.detach()
                scaled = (b * part.scaling[name]).to(dtype).t().contiguous()
                self._forwards.append((part, partial(_adapted, part.base_layer, a.to(dtype), scaled)))
            elif type(part).__name__.endswith("RMSNorm") and hasattr(part, "variance_epsilon"):
                self._forwards.append((part, partial(_normed, part)))

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the layers compute so. Without gradient."""
        for part, forward in self._forwards:
            part.forward = forward
        try:
            yield
        finally:
            for part, _ in self._forwards:
                del part.forward


def _is_plain(layer: Any) -> bool:
    """Whether a layer adds one adapter of two linear layers, and nothing else."""
    if layer.merged or layer.disable_adapters or len(layer.active_adapters) != 1:
        return False
    (name,) = layer.active_adapters
    return name in layer.lora_A and type(layer.lora_A[name]) is nn.Linear and name not in layer.lora_variant


def _adapted(base: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """base(x) + (x Aᵀ) B for x [..., in], A [r, in] and B [r, out] with its scale."""
    y = base(x)
    return torch.addmm(y.flatten(0, -2), linear(x, a).flatten(0, -2), b).view_as(y)


def _normed(norm: Any, x: Tensor) -> Tensor:
    return rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)
