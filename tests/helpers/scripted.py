"""Real runs of the Trainer, module and datamodule, in which a script stands for the rollouts and the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers.models import make_tokenizer
from helpers.plays import Dice
from helpers.worlds import Echo
from sdar_pl.batch import Batch, Row, collate
from sdar_pl.datamodule import RolloutDataModule
from sdar_pl.module import SDARModule
from sdar_pl.objectives import GRPO, Objective
from sdar_pl.prompts import Prompter
from sdar_pl.runtime.metrics_csv import MetricsCSV
from sdar_pl.sampling.iteration import Iteration
from sdar_pl.skills.providers import ContextProvider, NoContext
from sdar_pl.types import Episode, Observation, Task, Turn

#: a micro-batch: its rows and, by name, the objective's records of each row's tokens
Step = tuple[list[Row], dict[str, list[list[float]]]]


def row(episode: int, turns: list[int], advantages: list[float]) -> Row:
    """A row with one token for each entry of ``turns``."""
    n = len(turns)
    return Row(episode, 0, list(range(n + 1)), list(range(1, n + 1)), turns, [-1.0] * n, advantages=advantages)


def turn(response: list[int], action: str = "look", success: bool = False, reward: float = 0.0) -> Turn:
    seen = Observation("You see a desk.", reward=reward, done=success, success=success)
    return Turn([1], response, [-0.5] * len(response), f"<action>{action}</action>", action, True, seen)


def episode(task: str, success: bool, turns: int = 2, kind: str = "echo", index: int = 0, failed: str = "") -> Episode:
    """Turns of two tokens, and a last one of one token that is rewarded with 10 for a success."""
    played = Episode(Task(task, kind, "find the desk"), 0, index, Observation("You are in a room."), failed=failed)
    if not failed:
        played.turns = [turn([65, 66]) for _ in range(turns - 1)] + [turn([67], "take", success, 10.0 * success)]
    return played


class Hint(ContextProvider):
    """The same privileged words for every task."""

    def provide(self, task: Task) -> str:
        return "look in the drawer"


class ScriptedData(RolloutDataModule):
    """A datamodule without play.

    Args:
        rollouts: episodes and micro-batches of each iteration.
        panel_of: number of the evaluation (from 0), the task's index in the panel as text, and whether the teacher
            plays → the task's episode.
    """

    def __init__(
        self,
        policy: Any,
        rollouts: Sequence[tuple[list[Episode], list[Step]]],
        panel_of: Callable[[int, str, bool], Episode],
        objective: Objective,
        context: ContextProvider,
        panel_tasks: int,
    ) -> None:
        prompter = Prompter()
        prompter.bind(make_tokenizer())
        super().__init__(
            policy, objective, Echo(), Dice(), prompter, context, panel_tasks=panel_tasks,
            tasks_per_iteration=2, group_size=2, validation_split="valid_seen", test_split="valid_unseen",
        )  # fmt: skip
        self.rollouts, self.panel_of, self.evaluations = rollouts, panel_of, 0

    def collect(self, epoch: int) -> Iteration:
        episodes, steps = self.rollouts[epoch]
        for one in episodes:
            self._progress(one)
        batches = [collate(rows) for rows, _ in steps]
        trained, failed = [[e for e in episodes if bool(e.failed) is which] for which in (False, True)]
        return Iteration(
            epoch,
            trained,
            batches,
            len(batches),
            rollout_s=2.0,
            score_s=0.5,
            generated=300,
            prefilled=70,
            failed=failed,
        )

    def evaluate(self, numbered: Sequence[tuple[int, Task]], as_teacher: bool = False) -> list[Episode]:
        played = [self.panel_of(self.evaluations, str(index), as_teacher) for index, _ in numbered]
        self.evaluations += not as_teacher
        for one in played:
            self._progress(one)
        return played


class ScriptedModule(SDARModule):
    """Its objective's records are those of the script. No update moves a weight."""

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        data = self.data
        assert isinstance(data, ScriptedData)
        records = data.rollouts[self.trainer.current_epoch][1][batch_idx][1]
        width = batch.mask.shape[1]
        # Padding holds what would spoil every mean that counted it.
        tokens = {k: torch.tensor([[*v, *[1e9] * (width - len(v))] for v in values]) for k, values in records.items()}
        loss = torch.stack([parameter.sum() for _, parameter in self.policy.trained()]).sum() * 0.0
        return {"loss": loss, "tokens": tokens}


def scripted(
    folder: Path,
    policy: Any,
    callbacks: Sequence[L.Callback],
    rollouts: Sequence[tuple[list[Episode], list[Step]]] = (),
    *,
    panel_of: Callable[[int, str, bool], Episode] = lambda number, task, teacher: episode(task, False),
    objective: Objective | None = None,
    context: ContextProvider | None = None,
    panel_tasks: int = 3,
    **options: Any,
) -> tuple[L.Trainer, ScriptedModule, ScriptedData]:
    """A trainer for one epoch for each of ``rollouts``, with metrics.csv and TensorBoard's events in ``folder``."""
    objective = objective or GRPO()
    data = ScriptedData(policy, rollouts, panel_of, objective, context or NoContext(), panel_tasks)
    settings = {
        "max_epochs": len(rollouts),
        "num_sanity_val_steps": -1,
        "logger": [MetricsCSV(folder), TensorBoardLogger(folder, name="", version="")],
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        **options,
    }
    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=list(callbacks),
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        log_every_n_steps=1,
        enable_model_summary=False,
        **settings,
    )
    return trainer, ScriptedModule(policy, objective), data


def fit_script(*arguments: Any, **options: Any) -> None:
    """``scripted``, and its fit."""
    trainer, module, data = scripted(*arguments, **options)
    trainer.fit(module, data)


def events(folder: Path) -> EventAccumulator:
    """TensorBoard's events of a run."""
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator
