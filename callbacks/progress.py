"""Progress: a live line for the phase in progress, and one lasting line for each iteration.

On a terminal the live line shows episodes as they end, then scoring, then micro-batches. Where output goes to a file
there are only the lasting lines, without control characters. Only rank 0 shows anything: the live line counts its own
share of the episodes, the lasting lines hold figures of all ranks.
"""

from __future__ import annotations

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as LiveLine

from sdar_pl import __version__
from sdar_pl.callbacks.trainer_access import data_of, iteration_of, module_of
from sdar_pl.runtime.means import Means
from sdar_pl.runtime.words import count_in_words, percent, shown
from sdar_pl.types import Episode

ROLLOUT, SCORING, REFILL = "rolling out", "scoring", "rolling out in the place of groups with equal rewards"
VERBS = {"validate": "validating", "test": "testing", "predict": "playing"}


class Progress(ProgressBar):
    """The project's progress bar: Lightning adds none of its own where it is used."""

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True
        self.means = Means()
        self.since = 0.0
        self.successes = self.played = 0
        self.phase, self.note, self.total = "", "", 0  # what the live line shows
        self._console: Console | None = None
        self._live: LiveLine | None = None
        self._task = TaskID(0)

    # ------------------------------------------------------------------ drawing

    @property
    def console(self) -> Console:
        """The console on the process's stdout, made at its first use."""
        if self._console is None:
            self._console = Console(highlight=False, soft_wrap=True, quiet=not self.enabled)
        return self._console

    def enable(self) -> None:
        self.enabled, self.console.quiet = True, False

    def disable(self) -> None:
        self.enabled, self.console.quiet = False, True
        self._stop()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """A lasting line above the live one."""
        self.console.print(*map(shown, args), **kwargs, markup=False)

    def _phase(self, words: str, total: int | None = None) -> None:
        """Start to count something new on the live line. Without a total its end is not known."""
        self.successes = self.played = 0
        self.phase, self.total = words, total or 0
        self.note = f"0/{total}" if total else ""
        if not (self.enabled and self.console.is_terminal):
            return
        if self._live is None:
            text, note = TextColumn("{task.description}"), TextColumn("{task.fields[note]}")
            columns = SpinnerColumn(), text, BarColumn(24), note, TimeElapsedColumn()
            self._live = LiveLine(*columns, console=self.console, transient=True)
            self._live.start()
        else:
            self._live.remove_task(self._task)
        self._task = self._live.add_task(words, total=total, note=self.note)

    def _count(self, done: int, note: str = "") -> None:
        self.note = f"{done}/{self.total}{note}" if self.total else f"{done}{note}"
        if self._live is not None:
            self._live.update(self._task, completed=done, note=self.note)

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _episode_ended(self, episode: Episode) -> None:
        """Count an episode that has ended, in training or evaluation.

        Successful episodes are short and end first: the share is that of the ended ones, and starts high.
        """
        if self.phase == SCORING:  # groups were dropped, and others are rolled out
            self._phase(REFILL)
        self.played += 1
        self.successes += episode.success
        self._count(self.played, f" · success of the ended {self.successes / self.played:.0%}")
        if self.phase == ROLLOUT and self.played == self.total:
            self._phase(SCORING)

    # ------------------------------------------------------------------ fit

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.means = Means().to(trainer.strategy.root_device)
        listeners = data_of(trainer).listeners
        if trainer.is_global_zero and self._episode_ended not in listeners:
            listeners.append(self._episode_ended)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for name, value in self._header(trainer):
            self.print(f"{name:<12} {value}")
        self._roll_out(trainer)

    def _header(self, trainer: L.Trainer) -> list[tuple[str, str]]:
        return header(trainer)

    def _roll_out(self, trainer: L.Trainer) -> None:
        data = data_of(trainer)
        self.since = time.perf_counter()
        self._phase(ROLLOUT, len(data.share(data.tasks_per_iteration)) * data.group_size)

    def on_sanity_check_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._roll_out(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.ckpt_path:
            kept = "its rollouts are kept" if iteration_of(trainer).restored else "rolled out"
            self.print(f"resumed with iteration {trainer.current_epoch + 1} ({kept}) from {trainer.ckpt_path}")

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._phase("updating", int(self.total_train_batches))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._count(batch_idx + 1)
        if "gate" in outputs["tokens"]:
            self.means.update("gate", outputs["tokens"]["gate"], batch.mask)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        parts, validation = self._figures(trainer), self.means.compute().get("validation")
        self.means.reset()
        if validation is not None:
            parts.append(f"validation {percent(validation)}")
        parts.append(f"{time.perf_counter() - self.since:.1f} s")
        number = trainer.current_epoch + 1
        self.print(f"{head(trainer, number)} · {' · '.join(parts)}")
        last = trainer.max_epochs is not None and number == trainer.max_epochs
        if not last:
            self._roll_out(trainer)

    def _figures(self, trainer: L.Trainer) -> list[str]:
        """What an iteration's line shows of its training. Collective."""
        iteration = iteration_of(trainer)
        for episode in [*iteration.episodes, *iteration.dropped]:
            self.means.update("success", float(episode.success))
            self.means.update("reward", episode.reward)
        means = self.means.compute()
        return [
            f"success {percent(means.get('success'))}",
            f"reward {means.get('reward', 0.0):6.3f}",
            f"gate {means['gate']:5.3f}" if "gate" in means else "gate     –",
        ]

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._stop()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._stop()

    # ------------------------------------------------------------------ evaluation

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            self.since = time.perf_counter()

    on_test_start = on_predict_start = on_validation_start

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, *_: Any) -> None:
        verb = VERBS.get(stage_of(trainer), VERBS["validate"])
        self._phase(f"{verb} {len(batch)} tasks", len(batch))

    def on_test_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, *_: Any) -> None:
        self.on_validation_batch_start(trainer, pl_module, batch)

    def on_predict_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, *_: Any) -> None:
        self.on_validation_batch_start(trainer, pl_module, batch)

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        for episode in outputs:
            self.means.update("validation", float(episode.success))

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        self.on_validation_batch_end(trainer, pl_module, outputs)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            return  # part of the iteration's line
        success = percent(self.means.compute().get("validation"))
        self.means.reset()
        seconds = f"{time.perf_counter() - self.since:.1f} s"
        if trainer.sanity_checking:
            self.print(f"{head(trainer, 0)} · untrained · validation {success} · {seconds}")
        else:
            self._stop()
            self.print(f"{stage_of(trainer)} · success {success} · {seconds}")

    on_test_end = on_validation_end

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()


def stage_of(trainer: L.Trainer) -> str:
    """The subcommand that runs: "fit", "validate", "test" or "predict"."""
    return trainer.state.fn.value if trainer.state.fn else ""


def head(trainer: L.Trainer, number: int) -> str:
    """The start of a lasting line, numbers below each other: ``iteration   7/150``."""
    total = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None
    width = len(str(total or 1000))
    return f"iteration {number:>{width}}" + (f"/{total}" if total else "")


def header(trainer: L.Trainer) -> list[tuple[str, str]]:
    """Names and values printed before a run: policy, environment, iteration, devices, run folder."""
    data, policy = data_of(trainer), module_of(trainer).policy
    # bitsandbytes packs two 4-bit weights into one element.
    sizes = [(p.numel() * (2 if type(p).__name__ == "Params4bit" else 1), p.requires_grad) for p in policy.parameters()]
    total, trained = sum(n for n, _ in sizes), sum(n for n, yes in sizes if yes)
    adapters = f", LoRA rank {policy.lora.r}" if policy.lora else ""
    strategy, device = type(trainer.strategy).__name__, trainer.strategy.root_device
    devices = f"{trainer.world_size} × {device.type}" if trainer.world_size > 1 else str(device)
    panel = len(data.panel("validate"))
    share = f"{trained / max(1, total):.1%} trained{adapters}"
    return [
        ("sdar_pl", __version__),
        ("policy", f"{policy.source.name}: {count_in_words(total)} parameters, {share}"),
        ("environment", f"{type(data.environment).__name__}, validated on {panel} tasks"),
        ("iteration", f"{data.tasks_per_iteration} groups × {data.group_size} episodes"),
        ("device", f"{devices}, {strategy}, precision {trainer.precision}"),
        ("run folder", str(trainer.default_root_dir)),
    ]
