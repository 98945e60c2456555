"""A policy's architecture on the meta device: shapes without data, for ``plan``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sdar_pl.errors import UserError
from sdar_pl.modeling import prefix_tree
from sdar_pl.modeling.adapters import LoRA, adapt
from sdar_pl.modeling.architectures import read_config
from sdar_pl.modeling.memory import Int8StandIn, causal_lm, decoder_layers, quantised, weight_bytes
from sdar_pl.modeling.sources import ModelSource


@dataclass(frozen=True)
class Skeleton:
    """A policy without data. Sizes are bytes on one device, before any sharding.

    Args:
        net: the model with its adapters, on the meta device.
        weights: bytes of the base weights as they are stored.
        statistics: bytes of the scales of a quantised base.
        unpacked: bytes of the largest matrix of a decoder layer, dequantised for its forward; 0 without quantisation.
        precision: makes the context that Lightning's ``trainer.precision`` puts around a forward.
    """

    net: Any
    weights: int
    statistics: int
    unpacked: int
    precision: Callable[[], Any]

    @property
    def trained(self) -> list[nn.Parameter]:
        """The trained parameters: with LoRA, the adapters."""
        return [parameter for parameter in self.net.parameters() if parameter.requires_grad]

    @property
    def adapters(self) -> int:
        """Bytes of the LoRA matrices; 0 without adapters."""
        return sum(p.nbytes for name, p in self.net.named_parameters() if "lora_" in name)

    @property
    def parameters(self) -> int:
        """Number of all parameters, adapters included."""
        return sum(parameter.numel() for parameter in self.net.parameters())

    @property
    def vocabulary(self) -> int:
        """Size of the output layer's vocabulary."""
        return int(causal_lm(self.net).config.get_text_config().vocab_size)

    def gathered_bytes(self) -> int:
        """Bytes that FSDP2 holds unsharded during an update: a decoder layer, the next one, and the root."""
        layers = decoder_layers(self.net)
        one = sum(parameter.numel() for parameter in layers[0].parameters())
        whole = self.weights + self.adapters
        return int(whole / self.parameters * (self.parameters - (len(layers) - 2) * one))


def build_skeleton(
    source: ModelSource,
    lora: LoRA | None,
    quantization: str | None,
    dtype: torch.dtype,
    attention: str,
    precision: Callable[[], Any] = contextlib.nullcontext,
    folded_lora: bool = False,
    lean_layers: bool = False,
) -> Skeleton:
    """The skeleton of a Policy.

    Raises ``UserError`` where the configuration cannot be read or is not that of a causal language model.
    """
    from transformers import AutoModelForCausalLM

    config = read_config(source)
    with torch.device("meta"):
        try:
            net = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
            if attention == prefix_tree.NAME:
                prefix_tree.enable(net)
        except ValueError as error:
            raise UserError(
                f"model.policy.model: {source.name!r} is not a causal language model ({error}); name one that is"
            ) from error
        weights, statistics = weight_bytes(net, quantization)
        for part in quantised(net) if quantization == "int8" else ():
            part.__class__ = Int8StandIn
        if lora is not None:
            net = adapt(net, lora, folded_lora)
        if lean_layers:
            from sdar_pl.modeling.lean_layers import make_lean  # here: it imports peft, and with it bitsandbytes

            make_lean(net)
    largest = max(parameter.numel() for parameter in decoder_layers(net)[0].parameters())
    return Skeleton(net, weights, statistics, largest * dtype.itemsize if quantization else 0, precision)
