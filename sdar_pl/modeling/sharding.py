"""FSDP2: shard the model over ranks for updates, gather it for rollouts (strategy.py is the Lightning side).

Each decoder layer is sharded on its own, then the Hugging Face model as root (not the peft wrapper: its embedding
would meet plain and distributed tensors in one call). Episodes end at different times on different ranks, so
generation cannot run in step: around rollouts every parameter is gathered once, and no rank waits for another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


def shard(model: Any, mesh: Any) -> None:
    """Shard a Hugging Face causal language model over ``mesh``: every decoder layer, then the root."""
    from torch.distributed.fsdp import fully_shard

    for layer in model.get_decoder().layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


@contextlib.contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """A block in which every rank holds all parameters unsharded: forward passes need no communication. Collective."""
    from torch.distributed.fsdp import FSDPModule

    parts = [part for part in model.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            # The root stays whole after forward: backward begins with its parameters.
            part.set_reshard_after_forward(part is not model, recurse=False)
            part.reshard()


def local(tensor: Tensor) -> Tensor:
    """This rank's shard of a distributed tensor, sharing its memory; a plain tensor unchanged."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The unsharded tensor on every rank (collective); a plain tensor unchanged."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_as(tensor: Tensor, like: Tensor) -> Tensor:
    """An unsharded tensor, equal on every rank, distributed like ``like``."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
