"""A quantised base (bitsandbytes): NF4 with double quantisation, or int8. The adapters on it are never merged.

Left out: quantised checkpoints (the base is quantised on loading) and other libraries. In int8, bitsandbytes
also rounds the inputs of a layer, except for columns that hold an outlier *anywhere in the batch*: a row's log-probs
then depend slightly on the rows beside it. NF4 has no such effect.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sdar_pl.errors import UserError


def quantization_config(kind: str, dtype: torch.dtype) -> Any:
    """The transformers configuration of a quantised base that computes in ``dtype``.

    Raises ``UserError`` where bitsandbytes is missing or does not support the current default device.
    """
    try:
        import bitsandbytes
    except ImportError as error:
        raise UserError(
            f"model.policy.quantization: {kind} needs bitsandbytes ({error}); install it or set quantization to null"
        ) from error
    from transformers import BitsAndBytesConfig

    device = torch.get_default_device().type
    if device not in bitsandbytes.supported_torch_devices:
        known = ", ".join(sorted(bitsandbytes.supported_torch_devices))
        raise UserError(
            f"model.policy.quantization: {kind} does not run on {device} (bitsandbytes knows {known}); "
            "set quantization to null or choose another trainer.accelerator"
        )
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def prepare_quantized(net: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights in no-grad forwards on AVX512-BF16 CPUs.

    The repacked layout breaks later training there, in some models silently (wrong gradients).
    """
    import bitsandbytes as bnb

    for part in net.modules():
        if isinstance(part, bnb.nn.Linear4bit):
            part.support_avx512bf16_for_cpu = False
