"""The figures of a comparison: success of each method, its difference to the first one, learning curves.

Every figure is over a method's runs (seeds) and the tasks of the panel that all runs share. Left out: running anything
(commands/compare.py), the statistics (statistics.py, significance.py), tables and files (comparison_files.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdar_pl.errors import UserError
from sdar_pl.reports.significance import bootstrap_p, holm
from sdar_pl.reports.statistics import Interval, hierarchical_bootstrap


@dataclass
class Run:
    """One finished run.

    Example: ``Run("sdar", 0, {0: {"house-1": 0.0}, 8: {"house-1": 1.0}}, seconds=144.0, generated=59_173.0)``
    """

    objective: str  # the method's name
    seed: int
    panels: dict[int, dict[str, float]]  # iteration → task → success as 0 or 1
    seconds: float
    generated: float  # tokens sampled in training


@dataclass
class MethodSummary:
    """A method's figures; success as a share from 0 to 1."""

    objective: str  # the method's name
    seeds: int
    tasks: int
    iterations: int
    before: Interval
    after: Interval
    difference: Interval | None  # after, minus the first method's, over the seeds of both; None for the first method
    seconds: float  # mean of a run
    generated: float  # mean of a run
    paired_seeds: int = 0  # of the difference
    p: float | None = None  # of the difference, of this comparison alone
    p_holm: float | None = None  # corrected for all comparisons with the first method


#: method → iteration → success
LearningCurves = dict[str, dict[int, Interval]]


def summarise(runs: Sequence[Run], names: Sequence[str]) -> list[MethodSummary]:
    """A summary of each method that has runs, in the order of ``names``; differences are to the first name.

    The p-values of all differences are one family (``holm``).

    Raises ``UserError`` if the runs share no task.
    """
    tasks, methods = shared_tasks(runs), runs_by_method(runs, names)
    baseline = methods.get(names[0], {})
    summaries = []
    for name, of_seed in methods.items():
        method_runs = list(of_seed.values())
        paired_seeds = [] if name == names[0] else sorted(of_seed.keys() & baseline.keys())
        difference = p = None
        if paired_seeds:
            after, baseline_after = (
                success_matrix([of[seed] for seed in paired_seeds], tasks, -1) for of in (of_seed, baseline)
            )
            difference, p = hierarchical_bootstrap(after - baseline_after), bootstrap_p(after - baseline_after)
        summaries.append(
            MethodSummary(
                name,
                len(method_runs),
                len(tasks),
                max(max(run.panels) for run in method_runs),
                hierarchical_bootstrap(success_matrix(method_runs, tasks, 0)),
                hierarchical_bootstrap(success_matrix(method_runs, tasks, -1)),
                difference,
                float(np.mean([run.seconds for run in method_runs])),
                float(np.mean([run.generated for run in method_runs])),
                len(paired_seeds),
                p,
            )
        )
    compared = [summary for summary in summaries if summary.p is not None]
    for summary, adjusted in zip(compared, holm([summary.p or 0.0 for summary in compared]), strict=True):
        summary.p_holm = adjusted
    return summaries


def learning_curves(runs: Sequence[Run], names: Sequence[str]) -> LearningCurves:
    """Success at the iterations that all runs of a method validated. Raises ``UserError`` as ``summarise`` does."""
    tasks = shared_tasks(runs)
    return {
        name: {
            iteration: hierarchical_bootstrap(success_matrix(list(of_seed.values()), tasks, iteration))
            for iteration in sorted(set.intersection(*(set(run.panels) for run in of_seed.values())))
        }
        for name, of_seed in runs_by_method(runs, names).items()
    }


def shared_tasks(runs: Sequence[Run]) -> list[str]:
    """The tasks of every panel of every run. Raises ``UserError`` if there is none."""
    tasks = set.intersection(*(set(panel) for run in runs for panel in run.panels.values()))
    if not tasks:
        raise UserError("compare: the runs share no task of their panels; compare methods on one environment")
    return sorted(tasks)


def success_matrix(runs: Sequence[Run], tasks: Sequence[str], iteration: int) -> NDArray[np.float64]:
    """Successes [seeds, tasks] at an iteration (-1: each run's last, 0: its first)."""
    iterations = [{0: min(run.panels), -1: max(run.panels)}.get(iteration, iteration) for run in runs]
    return np.array([[run.panels[i][task] for task in tasks] for run, i in zip(runs, iterations, strict=True)])


def runs_by_method(runs: Sequence[Run], names: Sequence[str]) -> dict[str, dict[int, Run]]:
    """Method → seed → run, in the order of ``names``; methods without a run are left out."""
    by_name = {name: {run.seed: run for run in runs if run.objective == name} for name in names}
    return {name: of_seed for name, of_seed in by_name.items() if of_seed}
