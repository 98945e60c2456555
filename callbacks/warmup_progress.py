"""WarmupProgress: the progress bar of a warm-up, whose iterations have demonstrations and a loss."""

from __future__ import annotations

from typing import Any

import lightning as L

from sdar_pl.callbacks.progress import Progress, header
from sdar_pl.callbacks.trainer_access import data_of
from sdar_pl.types import Episode

DEMONSTRATIONS, PACKING = "preparing demonstrations", "packing"


class WarmupProgress(Progress):
    """Progress, with demonstrations in place of rollouts and the loss in place of success, reward and gate."""

    def _header(self, trainer: L.Trainer) -> list[tuple[str, str]]:
        data, lines = data_of(trainer), dict(header(trainer))
        source = type(data.demonstrations).__name__  # type: ignore[attr-defined]
        lines["iteration"] = f"{data.tasks_per_iteration} demonstrations ({source}), {data.steps_per_iteration} steps"
        if data.environment is None:
            lines["environment"] = "none, no panel is played"
        return list(lines.items())

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.ckpt_path:
            self.print(f"resumed with iteration {trainer.current_epoch + 1} from {trainer.ckpt_path}")

    def _roll_out(self, trainer: L.Trainer) -> None:
        super()._roll_out(trainer)
        self._phase(DEMONSTRATIONS, len(data_of(trainer).share(data_of(trainer).tasks_per_iteration)))

    def _episode_ended(self, episode: Episode) -> None:
        if self.phase != DEMONSTRATIONS:
            super()._episode_ended(episode)
            return
        self.played += 1
        self._count(self.played)
        if self.played == self.total:
            self._phase(PACKING)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self.means.update("loss", outputs["loss"].detach(), float(batch.total_tokens > 0))

    def _figures(self, trainer: L.Trainer) -> list[str]:
        return [f"loss {self.means.compute().get('loss', float('nan')):.4f}"]
