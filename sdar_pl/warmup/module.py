"""WarmupModule: one optimizer step of a warm-up. The loss is the cross-entropy of demonstrations.

    L = −Σ w log π(token) / Σ w        over the step's tokens on all ranks

with weight w = 1 for a response's token and data.prompt_weight for a prompt's. Log-probs are those that a rollout
samples from (temperature 1), at the same token ids. All else is SDARModule's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from sdar_pl.batch import Batch
from sdar_pl.module import SDARModule
from sdar_pl.policy import Policy
from sdar_pl.runtime.optimizer_settings import optimizer_settings
from sdar_pl.runtime.precision import take_true_precision
from sdar_pl.warmup.datamodule import NO_OBJECTIVE, DemonstrationDataModule
from sdar_pl.warmup.demonstrations import PROMPT


class WarmupModule(SDARModule):
    """Trains a policy to imitate demonstrations.

    Args:
        policy: the language model and its adapters.
        optimizer: optimizer of the trainable parameters.
        scheduler: schedule of the learning rate, stepped after every optimizer step (null: constant).
        max_skipped_steps: end the run when this many optimizer steps in a row, ≥ 1, were skipped because loss or
            gradient is not finite (null: never).
    """

    def __init__(
        self,
        policy: Policy,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: LRSchedulerCallable | None = None,
        max_skipped_steps: int | None = 3,
    ) -> None:
        super().__init__(policy, NO_OBJECTIVE, optimizer, scheduler, max_skipped_steps=max_skipped_steps)

    @property
    def data(self) -> DemonstrationDataModule:
        """The run's datamodule."""
        data = super().data
        assert isinstance(data, DemonstrationDataModule)
        return data

    def setup(self, stage: str) -> None:
        """As SDARModule, with the settings of a warm-up."""
        if (dtype := take_true_precision(self.trainer.strategy, training=stage == "fit")) is not None:
            self.policy.load_in(dtype)
        optimizer = optimizer_settings(self.make_optimizer, self.make_scheduler)
        self.settings = {"command": "warmup", **optimizer, **self.data.settings()}

    def configure_model(self) -> None:
        super().configure_model()
        limit = getattr(self.policy.causal_lm.config, "max_position_embeddings", None)
        if limit:
            self.data.demonstrations.refuse_longer_than(limit)

    def training_step(self, batch: Batch, batch_idx: int) -> Mapping[str, Any]:
        """The loss of one micro-batch, and the cross-entropy of each token [B, R] for the callbacks."""
        logprobs, entropy, *_ = self.data.budget.forward(self._read_as_student, batch)
        loss = -(batch.advantages * batch.mask * logprobs).sum() / (batch.total_tokens or 1.0)
        micro_batches = self.trainer.accumulate_grad_batches
        self.means.update("loss/total", loss.detach() * micro_batches, float(not self.empty))
        responses = batch.mask * (batch.turns != PROMPT)
        self.means.update("loss/response", -logprobs.detach(), responses)
        if entropy is not None:
            self.means.update("policy/entropy", entropy, responses)
        self.anomalies.saw(batch_idx, loss, logprobs, None)
        # Lightning divides by the number of micro-batches; the loss is divided by the step's weights already.
        return {"loss": loss * micro_batches, "tokens": {}}

    def on_train_epoch_end(self) -> None:
        """Log the iteration."""
        self.means.update("policy/skipped_steps", float(self.steps.of_iteration))
        self.write(self.means.compute())
        self.means.reset()
