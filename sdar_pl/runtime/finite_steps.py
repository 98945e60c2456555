"""FiniteSteps: the verdict over each optimizer step, the same on all ranks: made, or skipped as not finite.

A skipped step has no gradients when the optimizer reads them, so that weights, momentum and step counts stay as they
are. The verdict costs a norm of the gradients, a norm of the weights and two reductions of one number.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdar_pl.errors import UserError
from sdar_pl.runtime.finite import has_finite_norm, in_words, not_finite
from sdar_pl.runtime.processes import GUARD


class FiniteSteps:
    """Counts skipped steps and ends a run that makes no others.

    Args:
        limit: skipped steps in a row that end the run; None: never.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.iteration = self.number = 0  # of the step in progress; its number in the iteration, both from 1
        self.skipped = False  # the step in progress
        self.of_iteration = self.in_a_row = 0  # numbers of skipped steps

    def begin(self, iteration: int, number: int) -> None:
        """Begin step ``number`` of an iteration."""
        self.iteration, self.number, self.skipped = iteration, number, False
        self.of_iteration = 0 if number == 1 else self.of_iteration

    def check_gradients(
        self,
        trainer: Any,
        optimizer: Any,
        trained: Sequence[tuple[str, Tensor]],
        losses: Sequence[Tensor],
        keep: Callable[[Path, dict[str, Any]], bool],
    ) -> None:
        """Skip the step on all ranks if a gradient or a loss is not finite on any. Collective.

        fp16: the GradScaler skips as well, and finds its scale by such steps. They count in ``of_iteration`` only,
        while the losses are finite and the scale is not below 1.

        Args:
            trainer: Lightning's trainer.
            optimizer: the optimizer that is about to step.
            trained: names and parameters.
            losses: of the step's micro-batches.
            keep: writes this rank's rows of the step and the given entries to a file, if there is room.

        Raises ``UserError`` after ``limit`` skipped steps in a row.
        """
        gradients = {name: weight.grad for name, weight in trained if weight.grad is not None}
        if trainer.strategy.reduce_boolean_decision(has_finite_norm([*gradients.values(), *losses])):
            self.in_a_row = 0
            return
        self.skipped = True
        self.of_iteration += 1
        names = not_finite(gradients)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        # A fused optimizer lets the scaler look for infinities in ``step``, after this hook: there have to be some.
        fused = scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False)
        for _, weight in trained:
            weight.grad = torch.full_like(weight, torch.nan) if fused else None
        searches = scaler is not None and scaler.get_scale() >= 1 and has_finite_norm(losses)
        if scaler is not None and trainer.strategy.reduce_boolean_decision(searches):
            return
        self.in_a_row += 1
        kept = self._keep(trainer, names, keep)
        if self.limit is not None and self.in_a_row >= self.limit:
            raise UserError(
                f"model.max_skipped_steps: {self.in_a_row} optimizer steps in a row were skipped, the last in "
                f"iteration {self.iteration}, as loss or gradient is not finite{kept}; {go_on(trainer)}"
            )
        if trainer.is_global_zero:
            warnings.warn(
                f"iteration {self.iteration}, step {self.number}: loss or gradient is not finite, the step is "
                f"skipped{kept}",
                stacklevel=2,
            )

    def _keep(self, trainer: Any, names: list[str], keep: Callable[[Path, dict[str, Any]], bool]) -> str:
        folder, rank = Path(trainer.default_root_dir, "anomalies"), trainer.global_rank
        name = f"iteration-{self.iteration:04d}-step-{self.number}" + (f".rank{rank}" if rank else "")
        head = {"iteration": self.iteration, "step": self.number, "gradients": names}
        return f" (rows: {folder})" if keep(folder / f"{name}.json", head) else ""

    def check_weights(self, trainer: Any, trained: Sequence[tuple[str, Tensor]]) -> None:
        """Raises ``UserError`` if the step that was made has left weights that are not finite. Collective."""
        if trainer.strategy.reduce_boolean_decision(has_finite_norm(weight for _, weight in trained)):
            return
        names = not_finite(trained)
        raise UserError(
            f"model.optimizer: step {self.number} of iteration {self.iteration} made weights that are not finite or "
            f"overflow{f' ({in_words(names)})' if names else ''}; lower the learning rate; {go_on(trainer)}"
        )


def go_on(trainer: Any) -> str:
    """The command that resumes the run from its last good checkpoint, or that checkpoint, or that there is none."""
    last = Path(trainer.default_root_dir, "checkpoints", "last.ckpt")
    if not last.exists():
        return "there is no checkpoint yet"
    return GUARD.resume or f"the last good checkpoint is {last}"
