"""The fingerprint of a base model: a hash over all of its weights.

The weights are hashed as their files hold them, so that quantisation, dtype and sharding change nothing: a QLoRA run
and the merge of its adapters into the unquantised model agree. Left out: trained parameters, which a checkpoint holds.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdar_pl.modeling.sources import ModelSource


def fingerprint(net: Any, source: ModelSource) -> str:
    """Fingerprint of a base model in 16 hex digits. Call it before adapters are added and the model is sharded.

    Every value counts, and its place: a merged, fine-tuned or edited model has another fingerprint, the same weights in
    another folder or divided into other files have the same one. A GiB takes 0.5 s on one core. A model that has no
    safetensors or GGUF file (random weights) is hashed as loaded, in bfloat16.
    """
    digest = hashlib.sha256()
    for part in sorted(_tensors(source) or _loaded(net)):
        digest.update(part.encode())
    return digest.hexdigest()[:16]


def checksum(name: str, values: Tensor) -> str:
    """A tensor's name, dtype, shape, the sum of its bytes as 64-bit words modulo 2⁶⁴, and the CRC-32 of the bytes."""
    raw = values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    words = raw[: raw.size // 8 * 8].view(np.uint64)
    return f"{name} {values.dtype} {tuple(values.shape)} {int(words.sum(dtype=np.uint64))} {zlib.crc32(raw.data)}"


def _tensors(source: ModelSource) -> list[str]:
    """Checksums of the tensors in the model's files; none where there are no such files."""
    from safetensors import safe_open

    if source.random_weights:
        return []
    folder = _folder(source.located())
    if source.gguf_file:
        file = folder / source.gguf_file
        return [checksum("gguf", torch.from_file(str(file), size=file.stat().st_size, dtype=torch.uint8))]
    found = []
    for path in _safetensors(folder):
        with safe_open(str(path), "pt") as tensors:
            found += [checksum(name, tensors.get_tensor(name)) for name in tensors.keys()]  # noqa: SIM118 – no dict
    return found


def _folder(path: str) -> Path:
    """A model's folder; of a hub name, the cached copy that has been loaded."""
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(path, local_files_only=True))


def _safetensors(folder: Path) -> Iterator[Path]:
    """The files that transformers reads; other files of the folder do not count."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists():
        yield folder / "model.safetensors"
    elif index.exists():
        yield from (folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values())))


def _loaded(net: Any) -> list[str]:
    tensors = {name: value for name, value in net.state_dict().items() if isinstance(value, Tensor)}
    return [
        checksum(name, value.to(torch.bfloat16) if value.is_floating_point() else value)
        for name, value in tensors.items()
    ]
