"""Adapters as a peft folder: ``adapter_config.json`` and ``adapter_model.safetensors``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sdar_pl.runtime.files import replacing


def write_adapter_folder(weights: Mapping[str, Tensor], lora: Mapping[str, Any], model: str, folder: Path) -> None:
    """Write adapters, replacing ``folder`` in one step.

    Args:
        weights: by peft's own parameter names (``base_model.model.….lora_A.default.weight``).
        lora: ``r``, ``alpha`` and ``dropout``.
        model: name or folder of the base model.
        folder: the folder to write.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    tensors = {name.replace(".default.weight", ".weight"): tensor.contiguous() for name, tensor in weights.items()}
    config = LoraConfig(
        r=lora["r"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=sorted({re.sub(r"\.lora_[AB]\.weight$", "", name).rsplit(".", 1)[-1] for name in tensors}),
        task_type="CAUSAL_LM",
        base_model_name_or_path=model,
        inference_mode=True,
    )
    with replacing(folder) as partial:
        config.save_pretrained(str(partial))
        file = partial / "adapter_model.safetensors"
        save_file(tensors, str(file), metadata={"format": "pt"})
        file.chmod(0o644)
