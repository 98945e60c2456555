"""``trainer.strategy: fsdp2``: Lightning's ModelParallelStrategy for the sharding of modeling/sharding.py.

A checkpoint is one file, the same for any number of ranks. Lightning's strategy numbers the optimizer's state by all
parameters of the model, the frozen ones included, and torch's reader makes an optimizer step where none has been made.
Hence this class saves and loads the optimizer's state itself, by the optimizer's own numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.utils._pytree import tree_map

from sdar_pl.checks import at_least
from sdar_pl.modeling.sharding import sharded_as, whole


class FSDP2Strategy(ModelParallelStrategy):
    """FSDP2 without tensor parallelism. A checkpoint is one file of the trained parameters for any number of ranks.

    Args:
        data_parallel_size: number of ranks that share the weights; "auto": all ranks of all nodes.
        kwargs: further arguments of Lightning's ModelParallelStrategy.
    """

    def __init__(self, data_parallel_size: int | str = "auto", **kwargs: Any) -> None:
        if not isinstance(data_parallel_size, str):
            at_least("trainer.strategy.data_parallel_size", data_parallel_size, 1)
        super().__init__(
            data_parallel_size=data_parallel_size,  # type: ignore[arg-type]
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            **kwargs,
        )

    def _setup_distributed(self) -> None:
        # "auto" would mean the devices of one node; all ranks share the model here.
        if self._data_parallel_size == "auto":
            self._data_parallel_size = self.num_nodes * self.num_processes
        super()._setup_distributed()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        assert self.model is not None
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        return get_model_state_dict(self.model, options=options)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True  # not in ``load_checkpoint``

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        checkpoint: dict[str, Any] = torch.load(checkpoint_path, map_location="cpu", weights_only=True, mmap=True)
        return checkpoint

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        assert self.model is not None
        set_model_state_dict(
            self.model, dict(checkpoint["state_dict"]), options=StateDictOptions(full_state_dict=True, strict=strict)
        )

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Whole tensors on the CPU, on every rank. Collective."""
        state = (optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer).state_dict()
        gathered: dict[str, Any] = tree_map(_on_cpu, state)
        return gathered

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            parts = {
                number: {name: _part(value, parameters[number]) for name, value in values.items()}
                for number, values in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": parts})


def _on_cpu(value: Any) -> Any:
    return whole(value).cpu() if isinstance(value, Tensor) else value


def _part(value: Any, like: Tensor) -> Any:
    """This rank's part of what belongs to a parameter (a step count belongs to all of it)."""
    return sharded_as(value, like) if isinstance(value, Tensor) and value.shape == like.shape else value
