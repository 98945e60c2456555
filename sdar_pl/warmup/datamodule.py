"""DemonstrationDataModule: an iteration's demonstrations in place of rollouts; panels, micro-batches and resume as of
RolloutDataModule."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, cast

from sdar_pl.batch import Batch, Row
from sdar_pl.checks import at_least
from sdar_pl.datamodule import RolloutDataModule
from sdar_pl.engines import TransformersEngine
from sdar_pl.engines.base import Engine, Sampling
from sdar_pl.environments.base import Environment
from sdar_pl.environments.listing import refuse_bad_tasks
from sdar_pl.objectives import Objective
from sdar_pl.objectives.advantages import Advantage
from sdar_pl.policy import Policy
from sdar_pl.prompts import Prompter
from sdar_pl.rollout import PlayRules
from sdar_pl.runtime.ranks import all_sum, world
from sdar_pl.sampling.compatibility import refuse_ranks_without_groups
from sdar_pl.sampling.fit_to_device import fit_to_device
from sdar_pl.sampling.iteration import Iteration
from sdar_pl.sampling.tasks import tasks_of_split
from sdar_pl.skills.providers import ContextProvider, NoContext
from sdar_pl.types import Episode, Task
from sdar_pl.warmup.demonstrations import Demonstrations

#: In the slot of the objective, which a warm-up has no use for: its loss is the cross-entropy.
NO_OBJECTIVE = Objective(policy_loss=None)


class DemonstrationDataModule(RolloutDataModule):
    """Demonstrations as data.

    Args:
        policy: the language model that learns (linked to model.policy).
        demonstrations: their source.
        prompter: turns demonstrations and episodes into tokens.
        environment: plays the panels, and scripted demonstrations; null: no panel.
        engine: generates the panels' tokens (null: TransformersEngine).
        context: a privileged context, which ScriptedPlay shows to the expert.
        evaluation: how the panels' responses are sampled (the paper: temperature 0.4).
        play: limits of an episode.
        tasks_per_iteration: demonstrations an iteration, over all ranks; at least the number of ranks.
        steps_per_iteration: optimizer steps an iteration.
        micro_batch_tokens: tokens of a forward and backward pass (shared prefixes: once); "auto": what fits, ≤ 16,384.
        prompt_weight: weight of a prompt's token in the loss, ≥ 0; a response's token has 1.
        train_split: name of the environment's split that demonstrations are of.
        validation_split: name of the split that the panels play.
        panel_tasks: evaluate on this many tasks of a split, the same for every seed (null: all).
        seed: seed of demonstrations and panels (linked to seed_everything).
    """

    def __init__(
        self,
        policy: Policy,
        demonstrations: Demonstrations,
        prompter: Prompter,
        environment: Environment | None = None,
        engine: Engine | None = None,
        context: ContextProvider = NoContext(),  # noqa: B008 – never changed
        evaluation: Sampling = Sampling(temperature=0.4),  # noqa: B008 – never changed
        play: PlayRules = PlayRules(),  # noqa: B008 – never changed
        tasks_per_iteration: int = 64,
        steps_per_iteration: int = 4,
        micro_batch_tokens: int | Literal["auto"] = 16384,
        prompt_weight: float = 0.0,
        train_split: str = "train",
        validation_split: str = "validation",
        panel_tasks: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            policy,
            NO_OBJECTIVE,
            cast("Environment", environment),
            engine or TransformersEngine(),
            prompter,
            context,
            Advantage(),
            evaluation=evaluation,
            play=play,
            tasks_per_iteration=tasks_per_iteration,
            group_size=1,
            steps_per_iteration=steps_per_iteration,
            micro_batch_tokens=micro_batch_tokens,
            train_split=train_split,
            validation_split=validation_split,
            panel_tasks=panel_tasks,
            seed=seed,
        )
        self.demonstrations = demonstrations
        self.prompt_weight = at_least("data.prompt_weight", prompt_weight, 0)

    def collect(self, epoch: int) -> Iteration:
        """The iteration's demonstrations as rows, packed into micro-batches. Collective."""
        length = self.evaluation_sampling.max_new_tokens, self.rules.max_turns
        groups = self.share(self.tasks_per_iteration)
        fit_to_device(self.budget, self.engine, self.policy, self.prompter, self.objective, len(groups), *length)
        began = time.perf_counter()
        episodes, rows = list[Episode](), list[Row]()
        for demonstration in self.demonstrations.draw(groups, self.tasks_per_iteration, epoch, self.seed):
            rows += demonstration.rows(len(episodes), self.prompter.history, self.prompt_weight)
            episodes.append(demonstration.episode)
            self._progress(demonstration.episode)
        batches, accumulate = self._micro_batches(rows, epoch, False)
        return Iteration(epoch, episodes, batches, accumulate, rollout_s=time.perf_counter() - began)

    def _micro_batches(self, rows: Sequence[Row], epoch: int, dropped: bool) -> tuple[list[Batch], int]:
        """Micro-batches whose ``total_tokens`` counts each token by its weight."""
        batches, accumulate = super()._micro_batches(rows, epoch, dropped)
        weights = [float((batch.advantages * batch.mask).sum()) for batch in batches]
        steps = range(0, len(batches), accumulate)
        totals = all_sum([sum(weights[step : step + accumulate]) for step in steps])
        weighed = [replace(batch, total_tokens=totals[i // accumulate] / world()) for i, batch in enumerate(batches)]
        return weighed, accumulate

    def settings(self) -> dict[str, Any]:
        """What a resumed run must share, by key in YAML."""
        names = "tasks_per_iteration", "steps_per_iteration", "prompt_weight"
        return {
            "seed_everything": self.seed,
            **self.demonstrations.settings(),
            "data.prompter.history": self.prompter.history,
            **{f"data.{name}": getattr(self, name) for name in names},
        }

    # ------------------------------------------------------------------ Lightning's hooks

    def setup(self, stage: str) -> None:
        """Check the parts against each other before any work is done. Raises ``UserError``."""
        refuse_ranks_without_groups(self.tasks_per_iteration, world())
        self.prompter.bind(self.policy.tokenizer)
        environment: Environment | None = self.environment
        if environment is not None:
            self.context.bind(environment, 1)
            for name in ("train", "validate"):
                tasks_of_split(environment, name, self.splits[name])
            refuse_bad_tasks(environment, self.splits["validate"])
            self.panel("validate")
        else:
            self.trainer.limit_val_batches = self.trainer.num_sanity_val_steps = 0
        self.demonstrations.bind(self.prompter, environment, self.splits["train"], self.context, self.rules.max_turns)

    def panel(self, stage: str) -> list[Task]:
        """The tasks that an evaluation plays; none without an environment."""
        return super().panel(stage) if self.environment is not None else []

    def state_dict(self) -> dict[str, Any]:
        """No demonstration: they depend on (seed, epoch, group) alone."""
        return {"context": self.context.state_dict(), "iteration": None}
