"""Predictions: the episodes that ``Trainer.predict`` returns, past Lightning's walk through what a step returns.

Lightning moves predictions to the CPU: an object that has a method ``to`` by that method, every other list or dataclass
field by field, at which a frozen Task is an error.
"""

from __future__ import annotations

from typing import Any

from sdar_pl.types import Episode


class Predictions(list[Episode]):
    """Episodes that Lightning moves to no device."""

    def to(self, *_: Any, **__: Any) -> Predictions:
        """The same episodes, which hold no tensors."""
        return self
