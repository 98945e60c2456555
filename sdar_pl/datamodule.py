"""RolloutDataModule: fresh on-policy episodes at every epoch, and fixed panels for evaluation.

One Lightning epoch is one iteration: roll out → score → update. ``train_dataloader`` is called anew for each epoch
(``reload_dataloaders_every_n_epochs=1``) and does the first two; its loader holds the micro-batches of the third.
Whole groups stay on one rank, and every rank gets the same number of micro-batches.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, cast

import lightning as L
import numpy as np
from torch.utils.data import DataLoader, Dataset

from sdar_pl.batch import Batch, Row, rows_of
from sdar_pl.engines.base import Engine, Sampling
from sdar_pl.environments.base import Environment
from sdar_pl.errors import UserError
from sdar_pl.micro_batches import micro_batches
from sdar_pl.objectives.advantages import Advantage, GroupAdvantage
from sdar_pl.policy import Policy
from sdar_pl.prompts import Prompter
from sdar_pl.rollout import EpisodeSlot, PlayRules, play
from sdar_pl.runtime.ranks import all_gather, gather_to_rank_zero
from sdar_pl.sampling import dynamic_sampling
from sdar_pl.sampling.iteration import Iteration, restore
from sdar_pl.sampling.tasks import EVALUATE, SHUFFLE, draw, panel
from sdar_pl.scoring import add_hindsight_contexts, score, set_advantages, shape_iteration, update_context_provider
from sdar_pl.skills.providers import ContextProvider, NoContext
from sdar_pl.types import Episode, Task


class RolloutDataModule(L.LightningDataModule):
    """Rollouts as data.

    Args:
        environment: where tasks come from.
        engine: what generates tokens.
        prompter: how episodes become tokens.
        context: the teacher's privileged context.
        advantage: rewards → advantages.
        sampling: how training responses are drawn.
        evaluation: how evaluation responses are drawn (the paper: temperature 0.4).
        play: rules of play.
        tasks_per_iteration: groups an iteration, over all ranks.
        group_size: episodes a group.
        max_refills: drop groups whose rewards are all equal and roll out others in their place, up to so many times
            (DAPO's dynamic sampling; 0: train on every group). Distillation on dropped groups is dropped with them.
        steps_per_iteration: optimizer steps an iteration.
        micro_batch_tokens: padded tokens of one forward-backward.
        train_split, validation_split, test_split: names of the environment's splits.
        panel_tasks: evaluate on so many tasks of a split, the same for every seed (null: all).
        train_with_context: show the privileged context to the student in training too (Skill-GRPO).
        evaluate_with_context: show the privileged context to the student in evaluation, to measure the teacher.
        seed: of task order and sampling (linked to seed_everything).
    """

    trainer: Any  # Lightning's is None until a run begins

    def __init__(
        self,
        environment: Environment,
        engine: Engine,
        prompter: Prompter,
        context: ContextProvider = NoContext(),  # noqa: B008 – never changed
        advantage: Advantage = GroupAdvantage(),  # noqa: B008 – never changed
        sampling: Sampling = Sampling(),  # noqa: B008 – never changed
        evaluation: Sampling = Sampling(temperature=0.4),  # noqa: B008 – never changed
        play: PlayRules = PlayRules(),  # noqa: B008 – never changed
        tasks_per_iteration: int = 16,
        group_size: int = 8,
        max_refills: int = 0,
        steps_per_iteration: int = 1,
        micro_batch_tokens: int = 16384,
        train_split: str = "train",
        validation_split: str = "validation",
        test_split: str = "test",
        panel_tasks: int | None = None,
        train_with_context: bool = False,
        evaluate_with_context: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in {
            "tasks_per_iteration": tasks_per_iteration,
            "steps_per_iteration": steps_per_iteration,
            "micro_batch_tokens": micro_batch_tokens,
            "group_size": group_size,
        }.items():
            if value < 1:
                raise UserError(f"data.{name}: {value} must be 1 or more")
        if sampling.temperature == 0:
            raise UserError("data.sampling.temperature: 0 draws the same episode every time; give more than 0")
        dynamic_sampling.check(max_refills, group_size)
        advantage.validate(group_size)
        self.environment, self.engine, self.prompter = environment, engine, prompter
        self.context, self.advantage = context, advantage
        self.sampling, self.evaluation, self.rules = sampling, evaluation, play
        self.tasks_per_iteration, self.group_size = tasks_per_iteration, group_size
        self.max_refills = max_refills
        self.steps_per_iteration, self.micro_batch_tokens = steps_per_iteration, micro_batch_tokens
        self.splits = {"train": train_split, "validate": validation_split, "test": test_split}
        self.panel_tasks, self.seed = panel_tasks, seed
        self.train_with_context, self.evaluate_with_context = train_with_context, evaluate_with_context
        self.iteration: Iteration | None = None
        self.resumed: Iteration | None = None  # ``iteration``, where it comes from a checkpoint
        self.saved: dict[str, Any] | None = None  # rollouts from a checkpoint, until their epoch begins
        #: told of every episode as it ends, in training and evaluation (the progress bar listens here)
        self.listeners: list[Callable[[Episode], None]] = []

    # ------------------------------------------------------------------ what Lightning calls

    def setup(self, stage: str) -> None:
        """Check what can be checked before any work is done."""
        world, policy = self.trainer.world_size, self._policy
        if self.tasks_per_iteration < world:
            raise UserError(
                f"data.tasks_per_iteration: {self.tasks_per_iteration} groups cannot give each of {world} ranks one; "
                f"raise it to {world} or more, or lower trainer.devices"
            )
        self.prompter.bind(policy.tokenizer)
        self.trainer.lightning_module.objective.validate(context=not isinstance(self.context, NoContext))
        if self.advantage.needs_anchors and self.prompter.history != "windowed":
            raise UserError("data.prompter.history: this advantage compares single turns; set it to windowed")
        self.context.bind(self.environment, self.group_size)
        if isinstance(self.context, NoContext) and (self.train_with_context or self.evaluate_with_context):
            raise UserError(
                "data.train_with_context, data.evaluate_with_context: there is no context to show to the student; set "
                "data.context, or both to false"
            )
        if self.context.after_play and (self.train_with_context or self.evaluate_with_context):
            raise UserError(
                "data.train_with_context, data.evaluate_with_context: this context is made of finished episodes and "
                "cannot be shown to a student that plays; set both to false"
            )
        if stage == "fit":
            self.environment.tasks(self.splits["train"])
        self.panel("test" if stage in ("test", "predict") else "validate")

    def train_dataloader(self) -> DataLoader[Batch]:
        """Roll out and score; once for each epoch, also when Lightning asks twice (on resuming)."""
        # When Lightning first asks on resuming, `current_epoch` still is the one that has ended.
        epoch = self.trainer.fit_loop.epoch_progress.current.processed
        self.trainer.lightning_module.teacher.begin(self._policy)
        if self.iteration is None or self.iteration.epoch != epoch:
            self.iteration = self.resumed = self._restored(epoch)
        if self.iteration is None:
            with self.trainer.precision_plugin.forward_context(), self._policy.whole():
                self.iteration = self._iterate(epoch)
        # Lightning divides the loss by this and steps the optimizer every so many batches.
        self.trainer.accumulate_grad_batches = self.iteration.accumulate
        return _loader(self.iteration.batches)

    def val_dataloader(self) -> DataLoader[list[tuple[int, Task]]]:
        return self._panel_loader("validate")

    def test_dataloader(self) -> DataLoader[list[tuple[int, Task]]]:
        return self._panel_loader("test")

    def predict_dataloader(self) -> DataLoader[list[tuple[int, Task]]]:
        return self._panel_loader("test")

    # ------------------------------------------------------------------ checkpoints

    def state_dict(self) -> dict[str, Any]:
        """The rollouts of an iteration that is not over, and what the context provider has learnt. Collective."""
        over = self.trainer.fit_loop.epoch_progress.current.processed
        state: dict[str, Any] = {"context": self.context.state_dict(), "iteration": None}
        if self.iteration is not None and self.iteration.epoch == over:
            state["iteration"] = {"shape": self._shape, "ranks": gather_to_rank_zero(self.iteration.plain())}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.context.load_state_dict(state_dict["context"])
        self.saved = state_dict["iteration"]

    @property
    def _shape(self) -> list[int]:
        """What saved rollouts must agree with to be trained on."""
        return [self.seed, self.tasks_per_iteration, self.group_size, self.steps_per_iteration]

    def _restored(self, epoch: int) -> Iteration | None:
        """The rollouts that the checkpoint holds, if they are of this epoch."""
        saved, self.saved = self.saved, None
        if saved is None:
            return None
        if saved["shape"] != self._shape:
            warnings.warn("data has changed since the checkpoint: its rollouts give way to new ones", stacklevel=2)
            return None
        iteration, rows = restore(saved["ranks"], int(self.trainer.global_rank), int(self.trainer.world_size))
        if iteration.epoch != epoch:
            return None
        if not iteration.batches:
            iteration.batches, iteration.accumulate = self._batches(rows, epoch, bool(iteration.dropped))
        return iteration

    # ------------------------------------------------------------------ training

    @property
    def _policy(self) -> Policy:
        policy: Policy = self.trainer.lightning_module.policy
        return policy

    def _iterate(self, epoch: int) -> Iteration:
        policy, module = self._policy, self.trainer.lightning_module
        objective = module.objective
        began = time.perf_counter()
        self.engine.sync(policy)
        found = dynamic_sampling.sample(
            partial(self._play, epoch), self._share(self.tasks_per_iteration), self.max_refills
        )
        episodes = found.episodes
        rolled = time.perf_counter()
        add_hindsight_contexts(self.context, self.prompter, self.environment, episodes)
        rows = [row for i, episode in enumerate(episodes) for row in rows_of(episode, i, self.prompter.history)]
        set_advantages(rows, episodes, self.advantage)
        score(
            policy,
            rows,
            budget=self.micro_batch_tokens,
            temperature=self.sampling.temperature,
            teacher=module.teacher if objective.needs_teacher and module.teacher_refresh == "iteration" else None,
            old=self.steps_per_iteration > 1 or objective.shapes_iteration,
            reference=objective.needs_reference,
            top_k=objective.teacher_top_k,
        )
        if objective.shapes_iteration and rows:
            shape_iteration(objective, rows, epoch)
        update_context_provider(self.context, [*episodes, *found.dropped])
        batches, accumulate = self._batches(rows, epoch, bool(found.dropped))
        return Iteration(
            epoch,
            episodes,
            batches,
            accumulate,
            rollout_s=rolled - began,
            score_s=time.perf_counter() - rolled,
            generated=self.engine.generated,
            prefilled=self.engine.prefilled,
            failed=found.failed,
            dropped=found.dropped,
            dropped_groups=found.dropped_groups,
            refills=found.refills,
        )

    def _play(self, epoch: int, refill: int, groups: Sequence[int]) -> list[Episode]:
        # In a refill of few episodes, a single failure would be a large share of them.
        rules = replace(self.rules, max_failed=1.0) if refill else self.rules
        tell = self._tell if self.listeners else None
        slots = self.slots(epoch, refill, groups)
        return play(self.environment, slots, self.engine, self.prompter, self.sampling, rules, tell)

    def _tell(self, episode: Episode) -> None:
        for listener in self.listeners:
            listener(episode)

    def slots(self, epoch: int, refill: int, groups: Sequence[int]) -> list[EpisodeSlot]:
        """Episodes to play: ``group_size`` for each of these groups, in the iteration's own round (0) or a refill."""
        tasks = self.environment.tasks(self.splits["train"])
        chosen, stream = draw(len(tasks), epoch, self.tasks_per_iteration, self.seed, refill)
        slots = []
        for group in groups:
            task = tasks[chosen[group]]
            context = self.context.provide(task)
            for index in range(self.group_size):
                number = group * self.group_size + index
                slot = EpisodeSlot(task, group, index, number, (*stream, group, index), context)
                slot.student_context = context if self.train_with_context else ""
                slots.append(slot)
        return slots

    def _share(self, count: int) -> range:
        """This rank's share of ``count`` things."""
        return range(self.trainer.global_rank, count, self.trainer.world_size)

    def _batches(self, rows: Sequence[Row], epoch: int, dropped: bool) -> tuple[list[Batch], int]:
        """This rank's micro-batches (micro_batches.py) and their number in an optimizer step."""
        module = self.trainer.lightning_module
        order = np.random.default_rng([self.seed, SHUFFLE, epoch]).permutation(self.tasks_per_iteration)
        batches, accumulate = micro_batches(
            rows,
            # Which step a row belongs to depends on its group alone, so that it is the same for any number of ranks.
            step_of={int(group): place % self.steps_per_iteration for place, group in enumerate(order)},
            steps=self.steps_per_iteration,
            budget=self.micro_batch_tokens,
            pad=self._policy.tokenizer.pad_token_id or 0,
            reading=module.objective.needs_teacher and module.teacher_refresh == "step",
        )
        if not any(batch.total_rows for batch in batches):
            if not any(all_gather(dropped)):
                raise UserError("data.environment: no episode of this iteration can be trained on, all of them failed")
            if self.trainer.is_global_zero:
                warnings.warn(
                    "no group of an iteration has rewards that differ: nothing to learn from, its update is left out; "
                    "other tasks, a higher sampling.temperature or more data.max_refills may help",
                    stacklevel=2,
                )
        return batches, accumulate

    # ------------------------------------------------------------------ evaluation

    def panel(self, stage: str) -> list[Task]:
        """The fixed list of tasks that an evaluation plays."""
        return panel(self.environment.tasks(self.splits[stage]), self.panel_tasks)

    def panel_share(self, stage: str) -> list[tuple[int, Task]]:
        """This rank's tasks of the panel, with their places in it."""
        panel = self.panel(stage)
        return [(i, panel[i]) for i in self._share(len(panel))]

    def _panel_loader(self, stage: str) -> DataLoader[list[tuple[int, Task]]]:
        return _loader([self.panel_share(stage)])

    def evaluate(self, numbered: Sequence[tuple[int, Task]], as_teacher: bool = False) -> list[Episode]:
        """Play panel tasks once each, with the teacher's weights and context if ``as_teacher``. The random stream of a
        task is the same at every evaluation."""
        slots = []
        for number, task in numbered:
            slots.append(EpisodeSlot(task, number, 0, number, (self.seed, EVALUATE, number)))
            if as_teacher or self.evaluate_with_context:
                slots[-1].student_context = self.context.provide(task)
        policy, teacher = self._policy, self.trainer.lightning_module.teacher
        if as_teacher:
            teacher.begin(policy)
        with policy.whole(), teacher.view(policy) if as_teacher else nullcontext():
            self.engine.sync(policy)
            tell = self._tell if self.listeners and not as_teacher else None
            return play(self.environment, slots, self.engine, self.prompter, self.evaluation, self.rules, tell)


def _loader(items: list[Any]) -> DataLoader[Any]:
    # batch_size=None: each item is a batch already, and no sampler is put in.
    return DataLoader(cast("Dataset[Any]", items), batch_size=None, shuffle=False)
