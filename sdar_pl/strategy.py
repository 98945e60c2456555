"""``trainer.strategy: fsdp2``: Lightning's ModelParallelStrategy, for the sharding that sharding.py does."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy


class FSDP2Strategy(ModelParallelStrategy):
    """``trainer.strategy: fsdp2``: ModelParallelStrategy without tensor parallelism; one-file checkpoints that hold
    only what is trained and load on any number of ranks."""

    def __init__(self, data_parallel_size: int | str = "auto", **kwargs: Any) -> None:
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
