"""The tasks of a split, checked before a run begins, by the same clauses of the contract as ``check-env``."""

from __future__ import annotations

from itertools import chain

from sdar_pl.environments.base import Environment
from sdar_pl.environments.contract import tasks
from sdar_pl.environments.contract.plays import ContractError, Subject
from sdar_pl.errors import UserError
from sdar_pl.types import Task

#: tasks that are looked at of a split that is generated when it is read: as many first ones, and spread over the rest
SAMPLED = 4


def refuse_bad_tasks(environment: Environment, split: str) -> None:
    """Raises ``UserError`` for a split without tasks, and for ids, kinds and texts that are not what a Task must have.

    A list is checked whole. Of a split that is generated when it is read, a few tasks are; ``refuse_bad_task`` checks
    the others where they are drawn.
    """
    subject = Subject(lambda: environment, (split,), sampled_tasks=SAMPLED)
    try:
        violation = next(chain(tasks.tasks(subject), tasks.kinds(subject)), "")
    except ContractError as error:
        violation = str(error)
    if violation:
        raise UserError(f"data.environment: {violation} (python -m sdar_pl check-env names every such fault)")


def refuse_bad_task(task: Task) -> None:
    """Raises ``UserError`` for a task whose id, kind or text is not what a Task must have."""
    for problem in tasks.problems(task):
        raise UserError(f"data.environment: {problem}")
