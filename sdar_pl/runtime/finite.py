"""Finite numbers: what keeps NaN and infinities away from weights, checkpoints and samples.

A float32 norm is the test of gradients and of weights: it is not finite where any element is not, and also where the
elements' squares overflow (from 1.8e19 on), which no forward pass survives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from sdar_pl.modeling.sharding import local


def has_finite_norm(tensors: Iterable[Tensor]) -> bool:
    """Whether the norm of all ``tensors`` together (of this rank's shards) is finite. Waits for the device."""
    return bool(torch.nn.utils.get_total_norm([local(tensor.detach()) for tensor in tensors]).isfinite())


def not_finite(tensors: Iterable[tuple[str, Tensor]] | Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors (of this rank's shards) with a NaN or an infinity."""
    pairs = tensors.items() if isinstance(tensors, Mapping) else tensors
    return [name for name, tensor in pairs if not local(tensor.detach()).isfinite().all()]


def in_words(names: list[str]) -> str:
    """["a", "b", "c"] → "a and 2 more"."""
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def blame(module: torch.nn.Module) -> str:
    """Why a forward pass of ``module`` gives NaN or infinities, as a clause: its weights, or an overflow."""
    names = not_finite(module.named_parameters())
    return f"weights are not finite ({in_words(names)})" if names else "all weights are finite, so the pass overflows"
