"""LoRA layers and norms in fewer kernels: the same values to rounding in the dtype of the base.

On a GPU a decoding step, and an update of few tokens, are bound by the number of kernels, not by their work. peft
computes base(x) + α/r·B A x as eight, with casts of whole activations to the adapters' float32 and back, where three in
the base's dtype do; an RMSNorm of transformers is eight, where torch has one. Adapters, their gradients and their
optimizer stay in float32, as under autocast. Left to peft: dropout while training, several adapters, DoRA; left to
folded_lora.py: what it computes as one product.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm

from sdar_pl.modeling.folded_lora import FoldedLinear


class LeanLoRA:
    """Mixin before one of peft's LoRA layers."""

    #: A and α/r·Bᵀ in the dtype of the base, where they are made once (``LeanLayers``)
    once: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        layer: Any = self
        if args or kwargs or not _is_plain(layer):
            return super().forward(x, *args, **kwargs)  # type: ignore[misc, no-any-return]
        a, b = self.once or _factors(layer, x.dtype)
        y: Tensor = layer.base_layer(x)
        t = linear(x, a).flatten(0, -2)
        rows = y.flatten(0, -2)
        if torch.is_grad_enabled() or not rows.dtype == t.dtype == b.dtype:  # under autocast
            return torch.addmm(rows, t, b).view_as(y)
        return rows.addmm_(t, b).view_as(y)  # nobody else has y


class LeanNorm:
    """Mixin before a norm that multiplies x / √(mean x² + ε) with its weight."""

    def forward(self, x: Tensor) -> Tensor:
        norm: Any = self
        return rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def make_lean(net: nn.Module) -> None:
    """Let a model compute so from now on."""
    for part, kind in _candidates(net):
        part.__class__ = kind


class LeanLayers:
    """The layers of a model as the steps of a rollout compute them, with the adapters cast and scaled once.

    Good as long as the weights stay as they are: whoever changes them makes a new one.

    Args:
        net: the model, with peft's adapters or without.
        dtype: of the base weights.
    """

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        with torch.no_grad():
            self._parts = [
                (part, kind, _factors(part, dtype) if issubclass(kind, LeanLoRA) and _is_plain(part) else None)
                for part, kind in _candidates(net)
            ]

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model computes so. Without gradient."""
        kinds = [type(part) for part, _, _ in self._parts]
        for part, kind, factors in self._parts:
            part.__class__ = kind
            if factors:
                part.once = factors
        try:
            yield
        finally:
            for (part, _, factors), kind in zip(self._parts, kinds, strict=True):
                if factors:
                    del part.once
                part.__class__ = kind


def _candidates(net: nn.Module) -> list[tuple[Any, type]]:
    """Layers, each with the class that makes it lean."""
    found: list[tuple[Any, type]] = []
    for part in net.modules():
        kind: Any = type(part)
        if isinstance(part, LoraLayer) and isinstance(getattr(part, "base_layer", None), nn.Linear):
            if not (isinstance(part, FoldedLinear) and part.is_plain()):  # which is one product
                found.append((part, _lean(kind, LeanLoRA)))
        elif kind.__name__.endswith("RMSNorm") and hasattr(part, "variance_epsilon"):
            found.append((part, _lean(kind, LeanNorm)))
    return found


@cache
def _lean(kind: Any, mixin: type) -> type:
    return type(kind.__name__, (mixin, kind), {}) if not issubclass(kind, mixin) else kind


def _is_plain(layer: Any) -> bool:
    """Whether a layer adds one adapter of two linear layers, and nothing else."""
    if layer.merged or layer.disable_adapters or len(layer.active_adapters) != 1:
        return False
    (name,) = layer.active_adapters
    if name not in layer.lora_A or name in layer.lora_variant or type(layer.lora_A[name]) is not nn.Linear:
        return False
    return not (layer.training and isinstance(layer.lora_dropout[name], nn.Dropout))


def _factors(layer: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A [r, in] and α/r·Bᵀ [r, out] in ``dtype``."""
    (name,) = layer.active_adapters
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    return a.to(dtype), (b * layer.scaling[name]).to(dtype).t()
