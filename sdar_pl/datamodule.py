"""RolloutDataModule: new on-policy rollouts at every epoch, and fixed panels for evaluation.

One Lightning epoch is one iteration: roll out → score → update. ``collect`` does the first two; ``train_dataloader``,
which Lightning calls at every epoch (``reload_dataloaders_every_n_epochs=1``), hands out the micro-batches for the
third. A group is whole on one rank, and every rank has the same number of micro-batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Literal

import lightning as L
from torch.utils.data import DataLoader

from sdar_pl.batch import Batch, Row, micro_batches, rows_of
from sdar_pl.checks import at_least, between
from sdar_pl.engines.base import Engine, Sampling
from sdar_pl.environments.base import Environment
from sdar_pl.objectives import Objective
from sdar_pl.objectives.advantages import Advantage, GroupAdvantage
from sdar_pl.policy import Policy
from sdar_pl.prompts import Prompter
from sdar_pl.rewards import GroupReward, shape_rewards
from sdar_pl.rollout import PlayRules, play
from sdar_pl.runtime.ranks import rank, world
from sdar_pl.sampling.budget import Budget
from sdar_pl.sampling.compatibility import refuse_bad_refills, refuse_biased_sampling, refuse_incompatible_parts
from sdar_pl.sampling.contexts import add_hindsight_contexts, learn_contexts
from sdar_pl.sampling.dynamic_sampling import roll_out
from sdar_pl.sampling.fit_to_device import fit_to_device
from sdar_pl.sampling.iteration import Iteration, loader, refuse_empty
from sdar_pl.sampling.kept_groups import is_kept, set_apart
from sdar_pl.sampling.kept_rollouts import KeptRollouts
from sdar_pl.sampling.slots import EpisodeSlot, panel_slots, training_slots
from sdar_pl.sampling.tasks import choose_panel, draw, optimizer_steps, refuse_bad_split, tasks_of_split
from sdar_pl.scoring import score
from sdar_pl.skills.providers import ContextProvider, NoContext
from sdar_pl.teachers import Current, Teacher
from sdar_pl.types import Episode, Task


class RolloutDataModule(L.LightningDataModule):
    """Rollouts as data.

    Args:
        policy: the language model that plays (linked to model.policy).
        objective: decides which log-probs scoring computes (linked to model.objective).
        environment: the source of tasks and sessions.
        engine: generates tokens.
        prompter: turns episodes into tokens.
        context: the teacher's privileged context.
        advantage: rewards → advantages.
        rewards: the training reward of a group's episodes (null: the environment's).
        sampling: how training responses are sampled, from the whole policy: without top-p and top-k.
        evaluation: how evaluation responses are sampled (the paper: temperature 0.4).
        play: limits of an episode.
        teacher: the weights that the teacher reads with (linked to model.teacher).
        teacher_refresh: when the teacher reads (linked to model.teacher_refresh).
        tasks_per_iteration: groups an iteration, over all ranks; at least the number of ranks.
        group_size: episodes a group.
        max_refills: drop groups whose rewards are all equal and roll out others in their place, at most this many times
            (DAPO's dynamic sampling; 0: train on every group).
        keep_for_distillation: train the distillation on dropped groups all the same (SKALD).
        steps_per_iteration: optimizer steps an iteration.
        ahead: 1: roll out the next iteration while this one is trained on (engines that have weights of their own).
        micro_batch_tokens: tokens of a forward and backward pass (shared prefixes: once); "auto": what fits, ≤ 16,384.
        train_split: name of the environment's split to train on.
        validation_split: name of the split that validation plays.
        test_split: name of the split that ``test`` and ``predict`` play.
        panel_tasks: evaluate on this many tasks of a split, the same for every seed (null: all).
        train_with_context: show the privileged context to the student in training as well (Skill-GRPO).
        evaluate_with_context: show the privileged context to the student in evaluation, to measure the teacher.
        seed: seed of task order and sampling (linked to seed_everything).
    """

    trainer: Any  # Lightning types it as optional: there is none before a run begins

    def __init__(
        self,
        policy: Policy,
        objective: Objective,
        environment: Environment,
        engine: Engine,
        prompter: Prompter,
        context: ContextProvider = NoContext(),  # noqa: B008 – never changed
        advantage: Advantage = GroupAdvantage(),  # noqa: B008 – never changed
        rewards: GroupReward | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 – never changed
        evaluation: Sampling = Sampling(temperature=0.4),  # noqa: B008 – never changed
        play: PlayRules = PlayRules(),  # noqa: B008 – never changed
        teacher: Teacher = Current(),  # noqa: B008 – never changed
        teacher_refresh: Literal["iteration", "step"] = "iteration",
        tasks_per_iteration: int = 16,
        group_size: int = 8,
        max_refills: int = 0,
        keep_for_distillation: bool = False,
        steps_per_iteration: int = 1,
        ahead: Literal[0, 1] = 0,
        micro_batch_tokens: int | Literal["auto"] = 16384,
        train_split: str = "train",
        validation_split: str = "validation",
        test_split: str = "test",
        panel_tasks: int | None = None,
        train_with_context: bool = False,
        evaluate_with_context: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.sampling, self.evaluation_sampling = sampling.check("data.sampling"), evaluation.check("data.evaluation")
        refuse_biased_sampling(sampling)
        refuse_bad_refills(max_refills, keep_for_distillation, group_size, objective)
        advantage.validate(group_size)
        self.policy, self.objective, self.teacher, self.teacher_refresh = policy, objective, teacher, teacher_refresh
        self.environment, self.engine, self.prompter = environment, engine, prompter
        self.context, self.advantage, self.rewards, self.rules = context, advantage, rewards, play
        self.tasks_per_iteration = between("data.tasks_per_iteration", tasks_per_iteration, 1, 100_000)
        self.group_size = between("data.group_size", group_size, 1, 10_000)
        self.max_refills = at_least("data.max_refills", max_refills, 0)
        self.keep_for_distillation = keep_for_distillation
        self.steps_per_iteration = at_least("data.steps_per_iteration", steps_per_iteration, 1)
        self.budget = Budget(micro_batch_tokens)
        self.splits = {"train": train_split, "validate": validation_split, "test": test_split}
        self.panel_tasks, self.seed = at_least("data.panel_tasks", panel_tasks, 1), at_least("data.seed", seed, 0)
        self.train_with_context, self.evaluate_with_context = train_with_context, evaluate_with_context
        self.iteration: Iteration | None = None
        self.ahead, self.kept = bool(ahead), KeptRollouts()
        #: Called with every episode that ends, in training and evaluation (the progress bar).
        self.listeners: list[Callable[[Episode], None]] = []

    # ------------------------------------------------------------------ one iteration

    def collect(self, epoch: int) -> Iteration:
        """Roll out and score one iteration. Belongs inside ``Policy.whole()``; collective.

        1. Play this rank's groups with the policy's present weights; where they were played ahead, take them.
        2. Let the context provider read the finished groups (hindsight); begin the next rollout (``ahead``).
        3. Cut the episodes into rows and score them: advantages, and the old, teacher's and reference log-probs that
           the objective needs.
        4. Let the context provider learn from the outcomes; pack the rows into the optimizer steps' micro-batches.
        """
        groups = self.share(self.tasks_per_iteration)
        sizes = len(groups) * self.group_size, self.sampling.max_new_tokens, self.rules.max_turns
        fit_to_device(self.budget, self.engine, self.policy, self.prompter, self.objective, *sizes)
        iteration = self.kept.take(epoch, self._tasks(epoch, 0, groups)[0]) or self._rollout(epoch, groups)()
        add_hindsight_contexts(self.context, self.prompter, self.environment, iteration.episodes)
        if self.ahead and epoch + 1 != self.trainer.max_epochs:
            self.kept.begin(self._rollout(epoch + 1, groups, age=1))
        began = time.perf_counter()
        rows = [row for i, e in enumerate(iteration.episodes) for row in rows_of(e, i, self.prompter.history)]
        score(
            rows,
            iteration.episodes,
            learning=[row for row in rows if not is_kept(row.group, self.tasks_per_iteration)],
            policy=self.policy,
            objective=self.objective,
            advantage=self.advantage,
            teacher=self.teacher if self.teacher_refresh == "iteration" else None,
            with_old=self.steps_per_iteration > 1,
            temperature=self.sampling.temperature,
            budget=self.budget,
            iteration=epoch,
        )
        learn_contexts(self, epoch, iteration)
        iteration.batches, iteration.accumulate = self._micro_batches(rows, epoch, bool(iteration.dropped))
        iteration.score_s = time.perf_counter() - began
        return iteration

    def share(self, count: int) -> range:
        """This rank's share of ``count`` groups or tasks."""
        return range(rank(), count, world())

    def _rollout(self, epoch: int, groups: Sequence[int], age: int = 0) -> Callable[[], Iteration]:
        """Give the engine the policy's present weights, and return what plays the groups with them."""
        began = time.perf_counter()
        self.engine.sync(self.policy)
        first = self._slots(epoch, 0, groups)  # contexts are chosen here, not while the provider learns

        def play_groups(refill: int, groups: Sequence[int]) -> list[Episode]:
            # In a refill of few episodes, a single failure would be a large share of them.
            rules = replace(self.rules, max_failed=1.0) if refill else self.rules
            slots = self._slots(epoch, refill, groups) if refill else first
            return shape_rewards(self.rewards, self._play(slots, self.sampling, rules, shown=not age))

        def rolled_out() -> Iteration:
            keep = self.keep_for_distillation and self.objective.distils(epoch)
            rollout = roll_out(play_groups, groups, self.max_refills, self.tasks_per_iteration if keep else None)
            return Iteration.of(rollout, self.engine, epoch, age, time.perf_counter() - began)

        return rolled_out

    def _tasks(self, epoch: int, refill: int, groups: Sequence[int]) -> tuple[dict[int, Task], tuple[int, ...]]:
        """Each group's task, and the beginning of the random streams."""
        tasks = tasks_of_split(self.environment, "train", self.splits["train"])
        chosen, stream = draw(len(tasks), epoch, self.tasks_per_iteration, self.seed, refill)
        return {group: tasks[chosen[group]] for group in groups}, stream

    def _slots(self, epoch: int, refill: int, groups: Sequence[int]) -> list[EpisodeSlot]:
        tasks, stream = self._tasks(epoch, refill, groups)
        return training_slots(tasks, self.group_size, stream, self.context, self.train_with_context)

    def _play(self, slots: Sequence[EpisodeSlot], sampling: Sampling, rules: PlayRules, shown: bool) -> list[Episode]:
        parts = self.environment, slots, self.engine, self.prompter, sampling, rules
        return play(*parts, self._progress if shown else None)

    def _progress(self, episode: Episode) -> None:
        for listener in self.listeners:
            listener(episode)

    def _micro_batches(self, rows: Sequence[Row], epoch: int, dropped: bool) -> tuple[list[Batch], int]:
        """This rank's micro-batches, and how many make an optimizer step. ``dropped``: any group was dropped here."""
        rounds = self.max_refills + 1 if self.keep_for_distillation else 0
        batches, accumulate = micro_batches(
            rows,
            step_of=optimizer_steps(self.tasks_per_iteration, epoch, self.steps_per_iteration, self.seed, rounds),
            steps=self.steps_per_iteration,
            budget=self.budget.take(),
            pad=self.policy.tokenizer.pad_token_id or 0,
            with_teacher=self.teacher_refresh == "step" and self.objective.reads_teacher(epoch),
            shared=self.policy.shares_prefixes,
        )
        refuse_empty(batches, dropped)
        return set_apart(batches, accumulate, self.tasks_per_iteration) if rounds else batches, accumulate

    # ------------------------------------------------------------------ evaluation

    def panel(self, stage: str) -> list[Task]:
        """The fixed list of tasks that an evaluation plays."""
        return choose_panel(tasks_of_split(self.environment, stage, self.splits[stage]), self.panel_tasks)

    def panel_share(self, stage: str) -> list[tuple[int, Task]]:
        """This rank's tasks of the panel, each with its index in the panel."""
        panel = self.panel(stage)
        return [(i, panel[i]) for i in self.share(len(panel))]

    def evaluate(self, numbered: Sequence[tuple[int, Task]], as_teacher: bool = False) -> list[Episode]:
        """Play panel tasks, each with its index in the panel, once, from the same random streams at every evaluation;
        ``as_teacher``: with the teacher's weights and the privileged context."""
        self.kept.wait()
        shown = as_teacher or self.evaluate_with_context
        slots = panel_slots(numbered, self.seed, self.context if shown else NoContext())
        if as_teacher:
            self.teacher.begin(self.policy)
        with self.policy.whole(), self.teacher.view(self.policy) if as_teacher else nullcontext():
            self.engine.sync(self.policy)
            return self._play(slots, self.evaluation_sampling, self.rules, shown=not as_teacher)

    # ------------------------------------------------------------------ Lightning's hooks

    def setup(self, stage: str) -> None:
        """Check the parts against each other before any work is done. Raises ``UserError``."""
        if self.rewards is not None:
            self.rewards.bind(self.environment)
        refuse_incompatible_parts(self)
        self.prompter.bind(self.policy.tokenizer)
        self.context.bind(self.environment, self.group_size)
        played = "test" if stage in ("test", "predict") else "validate"
        for split in ["train", played] if stage == "fit" else [played]:
            refuse_bad_split(self.environment, split, self.splits[split])
        self.panel(played)

    def train_dataloader(self) -> DataLoader[Batch]:
        """The micro-batches of the present epoch: a checkpoint's, or new ones.

        Lightning calls this before each epoch; when a run resumes, twice for the same epoch, which is rolled out once.
        """
        # ``current_epoch`` still names the finished epoch when Lightning first calls on resuming.
        epoch = self.trainer.fit_loop.epoch_progress.current.processed
        if epoch and self.trainer.fit_loop.done:
            return loader([None])  # a finished run is resumed: never read (max_epochs 0 still checks its first rollout)
        self.teacher.begin(self.policy)
        if self.iteration is None or self.iteration.epoch != epoch:
            self.iteration = self.kept.restored(epoch, self._micro_batches)
        if self.iteration is None:
            with self.trainer.precision_plugin.forward_context(), self.policy.whole():
                self.iteration = self.collect(epoch)
        # Lightning divides the loss by this number and steps the optimizer once per this many micro-batches.
        self.trainer.accumulate_grad_batches = self.iteration.accumulate
        return loader(self.iteration.batches)

    def val_dataloader(self) -> DataLoader[list[tuple[int, Task]]]:
        return loader([self.panel_share("validate")])

    def test_dataloader(self) -> DataLoader[list[tuple[int, Task]]]:
        return loader([self.panel_share("test")])

    predict_dataloader = test_dataloader

    def state_dict(self) -> dict[str, Any]:
        """The rollouts of an unfinished iteration and the next one, and what the provider has learnt. Collective."""
        epoch = self.trainer.fit_loop.epoch_progress.current.processed
        present = self.iteration if self.iteration is not None and self.iteration.epoch == epoch else None
        return {**self.kept.state_dict(present), "context": self.context.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.context.load_state_dict(state_dict["context"])
        self.kept.load_state_dict(state_dict)
