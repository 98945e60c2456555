"""Schedules: the factor on a coefficient at each iteration."""

from __future__ import annotations

from sdar_pl.checks import at_least

KEY = "model.objective.distillation.schedule"


class Schedule:
    """Base class: ``schedule(iteration)`` returns the factor at an iteration ≥ 0."""

    def __call__(self, iteration: int) -> float:
        raise NotImplementedError


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
