"""Checks of the parts of a run against each other, before any work is done."""

from __future__ import annotations

from typing import Any

from sdar_pl.engines.base import Engine, Sampling
from sdar_pl.errors import UserError
from sdar_pl.objectives import Objective
from sdar_pl.objectives.corrections import Correction
from sdar_pl.policy import Policy
from sdar_pl.runtime.ranks import world
from sdar_pl.skills.providers import ContextProvider, NoContext
from sdar_pl.skills.reflections import Reflections


def refuse_incompatible_parts(data: Any) -> None:
    """Raises ``UserError`` for parts of a RolloutDataModule that are each valid and do not go together.

    - Every rank needs a group.
    - An objective with a teacher needs a context, or a teacher with weights of its own.
    - An advantage may need ``windowed`` history, and with it the environment's rewards of single turns.
    - An advantage may need the stages of the rewards.
    - A context that is shown to the student must exist before play.
    - A rollout ahead needs servers, and takes whatever groups come.
    - A schedule may need a figure that a callback takes.
    """
    advantage, context = data.advantage, data.context
    context_is_shown = data.train_with_context or data.evaluate_with_context
    refuse_ranks_without_groups(data.tasks_per_iteration, world())
    refuse_ahead(data.ahead, data.engine, data.max_refills, context)
    refuse_unmeasured_teacher(data.objective, data.trainer)
    data.objective.validate(context=data.teacher.stands_still or not isinstance(context, NoContext))
    if advantage.needs_anchors and data.prompter.history != "windowed":
        raise UserError("data.prompter.history: this advantage compares single turns; set it to windowed")
    if advantage.needs_anchors and data.rewards is not None:
        raise UserError(
            "data.rewards: this advantage compares the environment's rewards of single turns; set it to null, or "
            "data.advantage to sdar_pl.objectives.GroupAdvantage"
        )
    stages = data.rewards.stages if data.rewards is not None else ()
    if advantage.needs_stages and advantage.needs_stages != len(stages):
        raise UserError(
            f"data.advantage.matrix: {advantage.needs_stages} rows, but data.rewards has {len(stages)} stages; give "
            "each a row, and set data.rewards to sdar_pl.rewards.StageRewards"
        )
    if context_is_shown and isinstance(context, NoContext):
        raise UserError(
            "data.train_with_context, data.evaluate_with_context: there is no context to show to the student; set "
            "data.context, or both to false"
        )
    if context_is_shown and context.after_play:
        raise UserError(
            "data.train_with_context, data.evaluate_with_context: this context is made of finished episodes and "
            "cannot be shown to a student that plays; set both to false"
        )


def refuse_ahead(
    ahead: int,
    engine: Engine,
    max_refills: int,
    context: ContextProvider = NoContext(),  # noqa: B008 – never changed
) -> None:
    """Raises ``UserError`` where no rollout can be begun before its iteration."""
    if ahead and not engine.off_policy:
        raise UserError(
            "data.ahead: 1 needs an engine with weights of its own; set data.engine to sdar_pl.engines.VLLMEngine, or "
            "ahead to 0"
        )
    if ahead and max_refills:
        raise UserError(
            "data.ahead: 1 begins a rollout before it is known which groups are dropped; set data.max_refills or ahead "
            "to 0"
        )
    if ahead and isinstance(context, Reflections):
        raise UserError("data.ahead: 1 rolls out while Reflections are written with the same engine; set it to 0")


def refuse_unmeasured_teacher(objective: Objective, trainer: Any) -> None:
    """Raises ``UserError`` for a training whose schedules compare the student with a teacher that nobody measures."""
    if trainer is None or trainer.state.fn != "fit":
        return
    panels = [] if trainer.limit_val_batches == 0 else trainer.callbacks
    measured = {figure for panel in panels for figure in getattr(panel, "measures", ())}
    if any(set(schedule.needs()) - measured for schedule in objective.schedules):
        raise UserError(
            "model.objective.distillation.schedule.teacher_success: null, and no panel measures the teacher; add "
            "--trainer.callbacks+=sdar_pl.callbacks.TeacherPanel (with trainer.limit_val_batches above 0) or give the "
            "number"
        )


def refuse_ranks_without_groups(tasks_per_iteration: int, ranks: int) -> None:
    """Raises ``UserError`` for more ranks than an iteration has groups."""
    if tasks_per_iteration < ranks:
        raise UserError(
            f"data.tasks_per_iteration: {tasks_per_iteration} groups cannot give each of {ranks} ranks one; "
            f"raise it to {ranks} or more, or lower trainer.devices"
        )


def refuse_bad_refills(max_refills: int, keep: bool, group_size: int, objective: Objective) -> None:
    """Raises ``UserError`` for refills of groups that cannot differ, or for keeping what is not dropped or not read."""
    if max_refills and group_size < 2:
        raise UserError("data.max_refills: rewards in a group of one never differ; set it to 0 or raise group_size")
    if keep and not max_refills:
        raise UserError(
            "data.keep_for_distillation: no group is dropped; set data.max_refills to 1 or more, or it to false"
        )
    if keep and objective.distillation is None:
        raise UserError(
            "data.keep_for_distillation: the objective has no distillation; use sdar_pl.objectives.SDAR, or set it to "
            "false"
        )


def refuse_biased_sampling(sampling: Sampling) -> None:
    """Raises ``UserError`` for a ``sampling`` that rollouts cannot be trained on.

    Log-probs are under the whole softmax(logits / temperature). Tokens drawn from a part of it have E[∇log π] ≠ 0: each
    step moves probability from the tokens that were cut off to the others, whatever the rewards.
    """
    if sampling.temperature == 0:
        raise UserError("data.sampling.temperature: 0 samples the same episode every time; must be > 0")
    for name, value, whole in (("top_p", sampling.top_p, 1), ("top_k", sampling.top_k, 0)):
        if value != whole:
            raise UserError(
                f"data.sampling.{name}: {value:g} cuts off a part of the policy, and the gradient would lower the "
                f"entropy; set it to {whole} (data.evaluation.{name} may have any value)"
            )


def ask_for_likeliest(correction: Correction | None, engine: Engine, objective: Objective) -> None:
    """Let the engine give the likeliest tokens that the correction reads. Raises ``UserError`` where it cannot."""
    engine.likely = correction.likely if correction else 0
    if not engine.likely:
        return
    name = type(correction).__name__
    if not engine.off_policy:
        raise UserError(
            f"model.correction: {name} needs the likeliest tokens of an engine with weights of its own; set it to null "
            "for an engine in process"
        )
    if objective.teacher_top_k:
        raise UserError(
            f"model.correction: {name} and the objective's top-k divergence read the student at different tokens; set "
            "it to sdar_pl.objectives.TruncatedImportance"
        )


def refuse_different_halves(module: Any, data: Any) -> None:
    """Raises ``UserError`` where the module and the datamodule of a run were given different parts.

    Two teachers without a state of the same class, such as the defaults of both, are no difference.
    """
    for name in ("policy", "objective", "teacher", "teacher_refresh"):
        ours, theirs = getattr(module, name), getattr(data, name)
        same = ours == theirs or (name == "teacher" and type(ours) is type(theirs) and not vars(ours))
        if not same:
            raise UserError(
                f"data.{name}: differs from model.{name}; give SDARModule and RolloutDataModule the same one"
            )


def refuse_unserved_objective(objective: Objective, policy: Policy, teacher_refresh: str) -> None:
    """Raises ``UserError`` for an objective that this policy or this timing of the teacher cannot serve."""
    if objective.needs_reference and policy.lora is None:
        raise UserError(
            "model.objective.reference_coefficient: the reference view needs adapters to switch off; "
            "add model.policy.lora or set it to 0"
        )
    if objective.shapes_iteration and teacher_refresh == "step":
        raise UserError(
            "model.teacher_refresh: this objective shapes the advantages of a whole iteration at once, before its "
            "first step; set it to iteration"
        )
