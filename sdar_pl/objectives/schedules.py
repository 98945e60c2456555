"""Schedules: the factor on a coefficient at each iteration. Those that observe the run: papers/."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdar_pl.checks import at_least

KEY = "model.objective.distillation.schedule"


class Schedule:
    """Base class: ``schedule(iteration)`` returns the factor at an iteration ≥ 0. At 0 the teacher reads nothing.

    A schedule that observes the run overrides ``observe`` and keeps what it has learnt in private attributes.
    """

    def __call__(self, iteration: int) -> float:
        raise NotImplementedError

    def policy_factor(self, iteration: int) -> float:
        """The factor on the policy loss at an iteration."""
        return 1.0

    def needs(self) -> tuple[str, ...]:
        """Names of figures that ``observe`` cannot do without, and that not every run takes."""
        return ()

    def observe(self, figures: Mapping[str, float]) -> None:
        """Take notice of a finished iteration: its row of metrics.csv, the same on all ranks (docs/metrics.md).

        A figure that was not taken is missing. The first iteration's row has the figures of the panel before it, where
        no later panel was played.
        """

    def state_dict(self) -> dict[str, Any]:
        """Numbers and lists of numbers for a checkpoint: what ``observe`` has learnt."""
        return {name: value for name, value in vars(self).items() if name.startswith("_")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that ``state_dict`` returned."""
        vars(self).update(state)


class Constant(Schedule):
    """Constant factor.

    Args:
        value: the factor at every iteration, ≥ 0.
    """

    def __init__(self, value: float = 1.0) -> None:
        self.value = at_least(f"{KEY}.value", value, 0)

    def __call__(self, iteration: int) -> float:
        return self.value


class Linear(Schedule):
    """Linear warm-up or warm-down, constant afterwards.

    Args:
        start: factor at iteration 0, ≥ 0.
        end: factor from iteration ``steps`` on, ≥ 0.
        steps: number of iterations from ``start`` to ``end``, ≥ 1.
    """

    def __init__(self, start: float = 1.0, end: float = 0.0, steps: int = 100) -> None:
        self.start = at_least(f"{KEY}.start", start, 0)
        self.end = at_least(f"{KEY}.end", end, 0)
        self.steps = at_least(f"{KEY}.steps", steps, 1)

    def __call__(self, iteration: int) -> float:
        return self.start + (self.end - self.start) * min(max(iteration / self.steps, 0.0), 1.0)
