"""SDARModule: one optimizer step of the policy. The module does not know which algorithm it runs.

The Batch brings everything that a rollout decides: advantages, and the teacher's, old and reference log-probs. The
objective turns it into a loss. Left out: rollouts (datamodule.py), gate statistics (callbacks/).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from sdar_pl.batch import Batch
from sdar_pl.checks import at_least, positive
from sdar_pl.datamodule import RolloutDataModule
from sdar_pl.modeling.logprobs import LogProbs
from sdar_pl.objectives import Correction, Objective
from sdar_pl.objectives.corrections import TruncatedImportance, chosen, corrected, records, with_sample_size
from sdar_pl.policy import Policy
from sdar_pl.runtime.checkpoint_files import RUN_FINGERPRINT
from sdar_pl.runtime.finite_steps import FiniteSteps
from sdar_pl.runtime.means import Means
from sdar_pl.runtime.metrics_csv import MetricsCSV
from sdar_pl.runtime.optimizer_settings import adopt_settings
from sdar_pl.runtime.precision import take_true_precision
from sdar_pl.runtime.run_fingerprint import fingerprint_of, refuse_mismatch
from sdar_pl.sampling.anomalies import Anomalies
from sdar_pl.sampling.compatibility import ask_for_likeliest, refuse_different_halves, refuse_unserved_objective
from sdar_pl.sampling.figures import figures, panel_figures
from sdar_pl.sampling.observed_figures import ObservedFigures
from sdar_pl.sampling.predictions import Predictions
from sdar_pl.sampling.run_settings import run_settings
from sdar_pl.sampling.tasks import update_seed
from sdar_pl.teachers import Current, Teacher
from sdar_pl.types import Task


class SDARModule(L.LightningModule):
    """Trains a policy with an objective.

    Raises ``UserError`` for an objective or a teacher that the policy cannot serve.

    Args:
        policy: the language model and its adapters.
        objective: the loss: SDAR, GRPO, or any composition of the slots.
        optimizer: optimizer of the trainable parameters.
        scheduler: schedule of the learning rate, stepped after every optimizer step; ReduceLROnPlateau after every
            iteration that logs its ``monitor`` (null: constant).
        teacher: the weights that the teacher reads with.
        teacher_refresh: when the teacher reads. "iteration": once, before the first update (the paper); "step": at
            every optimizer step, under the weights of that step. The two differ from an iteration's second step on.
        importance_cap: abbreviates ``correction``: truncated importance sampling with this cap, > 0.
        correction: of the mismatch of engine and trainer (null: TruncatedImportance; none for an engine in process).
        max_skipped_steps: end the run when this many optimizer steps in a row, ≥ 1, were skipped because loss or
            gradient is not finite (null: never).
    """

    def __init__(
        self,
        policy: Policy,
        objective: Objective,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: LRSchedulerCallable | None = None,
        teacher: Teacher = Current(),  # noqa: B008 – never changed
        teacher_refresh: Literal["iteration", "step"] = "iteration",
        importance_cap: float | None = None,
        correction: Correction | None = None,
        max_skipped_steps: int | None = 3,
    ) -> None:
        super().__init__()
        refuse_unserved_objective(objective, policy, teacher_refresh)
        teacher.check(policy)
        self.policy, self.objective = policy, objective
        self.teacher, self.teacher_refresh = teacher, teacher_refresh
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.correction = chosen(correction, positive("model.importance_cap", importance_cap))
        self.strict_loading = False  # checkpoints hold trainable parameters only
        self.means, self.evaluation_means = Means(), Means()
        self.settings: dict[str, Any] = {}  # of this run, for its fingerprint
        self.adopted: tuple[dict[str, Any], dict[str, Any]] = {}, {}  # settings that a resumed run changes: new, old
        self.empty = False  # whether the optimizer step has no token on any rank
        self.steps = FiniteSteps(at_least("model.max_skipped_steps", max_skipped_steps, 1))
        self.anomalies = Anomalies()
        self.observed = ObservedFigures(objective)

    # ------------------------------------------------------------------ set-up

    def setup(self, stage: str) -> None:
        """Take the dtype of the base weights from a true ``trainer.precision``; note the settings of a training."""
        if (dtype := take_true_precision(self.trainer.strategy, training=stage == "fit")) is not None:
            self.policy.load_in(dtype)
        if stage == "fit":
            self.correction = self.correction or (TruncatedImportance() if self.data.engine.off_policy else None)
            ask_for_likeliest(self.correction, self.data.engine, self.objective)
            self.settings = run_settings(self)

    def configure_model(self) -> None:
        refuse_different_halves(self, self.data)
        if self.policy.net is None:
            self.policy.build()
            if self.device_mesh is not None:
                self.policy.shard(self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer([parameter for _, parameter in self.policy.trained()])
        if self.make_scheduler is None:
            return optimizer
        scheduler = self.make_scheduler(optimizer)
        schedule: dict[str, Any] = {"scheduler": scheduler, "interval": "step"}
        if monitor := getattr(scheduler, "monitor", None):  # a plateau of a metric, which iterations without lack
            schedule |= {"interval": "epoch", "monitor": monitor, "strict": False}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Micro-batches move; tasks of a panel are plain data."""
        return batch.to(device) if isinstance(batch, Batch) else batch

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the trained parameters (LoRA: the adapters), the teacher's and schedules' states, the fingerprint."""
        trained = {f"policy.{name}" for name, _ in self.policy.trained()}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
        checkpoint["teacher"] = self.teacher.state_dict()
        checkpoint["schedules"] = self.observed.state_dict()
        checkpoint[RUN_FINGERPRINT] = fingerprint_of(self.policy, self.settings)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another model or other settings; restore teacher and schedules."""
        training = self.trainer.state.fn == "fit"
        adopted = refuse_mismatch(checkpoint, fingerprint_of(self.policy, self.settings), training)
        if training:
            self.trainer.num_sanity_val_steps = 0  # a resumed run has played the untrained policy's panel
            self.teacher.load_state_dict(checkpoint["teacher"])
            self.observed.load_state_dict(checkpoint.get("schedules", self.observed.state_dict()))
            self.adopted = adopted, checkpoint[RUN_FINGERPRINT]["settings"]

    @property
    def data(self) -> RolloutDataModule:
        """The run's datamodule."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, RolloutDataModule)
        return data

    # ------------------------------------------------------------------ training

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.empty = batch.total_tokens == 0
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            number = batch_idx // self.trainer.accumulate_grad_batches + 1
            self.steps.begin(self.trainer.current_epoch + 1, number)
            self.anomalies.begin_step()
        if batch_idx == 0:  # dropout's stream belongs to the iteration, so that a resumed run draws the same
            torch.manual_seed(update_seed(self.data.seed, self.trainer.current_epoch, self.trainer.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> Mapping[str, Any]:
        """The loss of one micro-batch, and per-token records [B, R] for the callbacks."""
        if batch.teacher_batch is not None:
            batch = self._read_as_teacher(batch, batch.teacher_batch)
        student, entropy, student_top, _ = self.data.budget.forward(self._read_as_student, batch)
        inputs = batch.loss_inputs(
            student,
            entropy=entropy,
            student_top=student_top,
            iteration=self.trainer.current_epoch,
            shaped=self.objective.shapes_iteration,
        )
        mismatch = (inputs.behaviour - batch.engine_logprobs) * batch.mask
        inputs = corrected(inputs, self.correction, mismatch, batch.likely)
        outputs = self.objective(inputs)
        micro_batches = self.trainer.accumulate_grad_batches
        for name, value in outputs.terms.items():
            # Each term is already divided by the whole step's tokens, so a step's value is the sum over its
            # micro-batches. Multiplied by their number, the plain mean over micro-batches is the mean over steps.
            self.means.update(name, value * micro_batches, float(not self.empty))
        reported = {
            "policy/entropy": entropy,
            "policy/clip_fraction": outputs.tokens.get("clipped"),
            "policy/approx_kl": outputs.tokens.get("approx_kl"),
            "engine/logprob_mismatch": mismatch.abs(),
            **records(self.correction, mismatch, inputs.correction),
        }
        for name, values in reported.items():
            if values is not None:
                self.means.update(name, values, batch.mask)
        self.anomalies.saw(batch_idx, outputs.loss, student, batch.teacher_logprobs)
        # Lightning divides by the number of micro-batches; the objective has divided by the step's tokens already.
        return {"loss": outputs.loss * micro_batches, "tokens": outputs.tokens}

    def _read_as_student(self, batch: Batch) -> LogProbs:
        with self.trainer.precision_plugin.forward_context():  # once more in backward, for a micro-batch in halves
            top = batch.top_tokens if batch.likely is None else batch.likely[..., 0].long()
            return self.policy.logprobs(batch, temperature=self.data.sampling.temperature, entropy=True, top=top)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """In halves where the micro-batch does not fit into memory."""
        self.data.budget.backward(loss, [weight for _, weight in self.policy.trained()])

    def _read_as_teacher(self, batch: Batch, teacher_batch: Batch) -> Batch:
        """The batch with the teacher's log-probs under the weights of this optimizer step.

        Call it before the student's forward pass: MovingAverage writes the teacher's weights into the parameters, and
        doing so between forward and backward would corrupt the gradient.
        """
        top_k = self.objective.teacher_top_k or None
        read = partial(self.policy.logprobs, temperature=self.data.sampling.temperature, top=top_k)
        with self.policy.whole(), self.teacher.view(self.policy):
            seen = self.data.budget.read(read, teacher_batch)
        return replace(batch, teacher_logprobs=seen.values, top_tokens=seen.top_tokens, teacher_top=seen.top)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Leave out a step without tokens: even without a gradient, momentum and weight decay would move the weights.

        A step whose gradients are not finite has none any more when the optimizer reads them.
        """
        if self.empty:
            assert optimizer_closure is not None
            optimizer_closure()  # backward is collective
            return
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if not self.steps.skipped:
            self.steps.check_weights(self.trainer, self.policy.trained())
            self.teacher.follow(self.policy)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Runs between backward and clipping, gradients unscaled."""
        if not self.empty:
            assert self.data.iteration is not None
            keep = partial(self.anomalies.write, self.data.iteration)
            self.steps.check_gradients(self.trainer, optimizer, self.policy.trained(), self.anomalies.losses, keep)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """The schedule counts the optimizer steps that were made."""
        if not (self.empty or self.steps.skipped):
            super().lr_scheduler_step(scheduler, metric)

    def on_train_start(self) -> None:
        adopt_settings(*self.adopted, self.trainer)
        for logger in self.loggers:
            if isinstance(logger, MetricsCSV) and self.trainer.is_global_zero:
                logger.experiment.forget_after(self.trainer.current_epoch)

    def on_train_epoch_start(self) -> None:
        last = self.trainer.max_epochs is not None and self.trainer.current_epoch + 1 == self.trainer.max_epochs
        if last and self.trainer.check_val_every_n_epoch:
            self.trainer.check_val_every_n_epoch = 1  # validate the last iteration in any case

    def on_train_epoch_end(self) -> None:
        """Log the iteration: token-weighted, over all of its micro-batches and all ranks."""
        iteration = self.data.iteration
        assert iteration is not None
        played = figures(iteration, self.data.max_refills > 0, self.data.ahead)
        for name, value in [*played, *self.objective.figures(iteration.epoch).items()]:
            self.means.update(name, value)
        self.means.update("policy/skipped_steps", float(self.steps.of_iteration))
        self.write(with_sample_size(self.means.compute()))
        self.means.reset()
        self.observed.end_iteration()

    def write(self, values: Mapping[str, float]) -> None:
        """Log values under the number of the iteration (0: before any update)."""
        self.observed.add(values)
        if self.trainer.sanity_checking:
            for logger in self.loggers:
                logger.log_metrics(dict(values), step=0)
            return
        training = self.trainer.state.fn == "fit"
        step = self.trainer.current_epoch + 1 if training else self.trainer.current_epoch
        self.log_dict({**values, "step": float(step)}, rank_zero_only=False)

    # ------------------------------------------------------------------ evaluation

    def on_validation_epoch_start(self) -> None:
        self.evaluation_means = Means().to(self.device)

    def validation_step(self, batch: list[tuple[int, Task]], batch_idx: int) -> Any:
        """Play this rank's share of the panel → its episodes."""
        episodes = self.data.evaluate(batch)
        for name, value in (figure for episode in episodes for figure in panel_figures(episode)):
            self.evaluation_means.update(name, value)
        return episodes

    def on_validation_epoch_end(self) -> None:
        self.write({f"val/{name}": value for name, value in self.evaluation_means.compute().items()})

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        self.write({f"test/{name}": value for name, value in self.evaluation_means.compute().items()})

    def predict_step(self, batch: list[tuple[int, Task]], batch_idx: int) -> Predictions:
        """Play this rank's share of the panel and return the episodes."""
        return Predictions(self.data.evaluate(batch))
