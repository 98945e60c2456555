"""Schedules: the factor on a coefficient at an optimizer iteration. They are applied, not only logged."""

from __future__ import annotations

from sdar_pl.checks import at_least


class Schedule:
    """Base: ``schedule(iteration)`` is the factor at an iteration ≥ 0."""

    def __call__(self, iteration: int) -> float:
        raise NotImplementedError


class Constant(Schedule):
    """Always ``value``."""

    def __init__(self, value: float = 1.0) -> None:
        self.value = at_least("model.objective.distillation.schedule.value", value, 0)

    def __call__(self, iteration: int) -> float:
        return self.value


class Linear(Schedule):
    """From ``start`` to ``end`` in a straight line over ``steps`` iterations, ``end`` ever after."""

    def __init__(self, start: float = 1.0, end: float = 0.0, steps: int = 100) -> None:
        self.start = at_least("model.objective.distillation.schedule.start", start, 0)
        self.end = at_least("model.objective.distillation.schedule.end", end, 0)
        self.steps = at_least("model.objective.distillation.schedule.steps", steps, 1)

    def __call__(self, iteration: int) -> float:
        return self.start + (self.end - self.start) * min(max(iteration / self.steps, 0.0), 1.0)
