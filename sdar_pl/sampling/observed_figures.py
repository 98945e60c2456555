"""ObservedFigures: what a run logs, handed to the objective's schedules once an iteration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdar_pl.objectives import Objective


class ObservedFigures:
    """The figures of the present iteration, for the schedules of an objective.

    Figures are reduced over all ranks before they are logged, so that all ranks hold the same schedules.

    Args:
        objective: its schedules observe the figures.
    """

    def __init__(self, objective: Objective) -> None:
        self._schedules = objective.schedules
        self._figures: dict[str, float] = {}

    def add(self, figures: Mapping[str, float]) -> None:
        """Add figures by their names in metrics.csv."""
        self._figures.update(figures)

    def end_iteration(self) -> None:
        """Let the schedules observe the iteration, and forget its figures."""
        for schedule in self._schedules:
            schedule.observe(self._figures)
        self._figures = {}

    def state_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint: the schedules' state, and the figures of an iteration that has not ended."""
        return {"figures": self._figures, "schedules": [schedule.state_dict() for schedule in self._schedules]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that ``state_dict`` returned."""
        self._figures = dict(state["figures"])
        for schedule, own in zip(self._schedules, state["schedules"], strict=True):
            schedule.load_state_dict(own)
