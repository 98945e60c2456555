"""FrozenLakeText: Gymnasium's FrozenLake as a game of texts, an example of a wrapper for ``GymText``.

pip install 'sdar_pl[gymnasium]'.
"""

from __future__ import annotations

from typing import Any

from sdar_pl.environments.generated import package

MOVES = ("left", "down", "right", "up")  # in Gymnasium's order


class FrozenLakeText:
    """A lake whose map depends on the seed of ``reset``; the ice is not slippery.

    Args:
        size: rows and columns of the lake.
        holes: share of fields that are no hole, in (0, 1]: Gymnasium's ``p``.
    """

    def __init__(self, size: int = 4, holes: float = 0.8) -> None:
        self.size, self.holes = size, holes
        self.gymnasium = package("gymnasium", "gymnasium", "FrozenLakeText")
        self.env: Any = None

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        from gymnasium.envs.toy_text.frozen_lake import generate_random_map

        rows = generate_random_map(self.size, self.holes, seed)
        self.close()
        self.env = self.gymnasium.make("FrozenLake-v1", desc=rows, is_slippery=False)
        field, _ = self.env.reset(seed=seed)
        rules = "Walk over the frozen lake (F) from the start (S) to the goal (G). Do not step into a hole (H)."
        moves = f"Moves: {', '.join(MOVES)}."
        return f"{rules} {moves}\n" + "\n".join(rows) + f"\n{self._where(field)}", self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        move = action.strip().lower()
        if move not in MOVES:
            return f"No such move; use {', '.join(MOVES)}.", 0.0, False, False, self._info()
        field, reward, terminated, truncated, _ = self.env.step(MOVES.index(move))
        end = " That is the goal." if reward else " That is a hole." if terminated else ""
        return self._where(field) + end, float(reward), bool(terminated), bool(truncated), self._info()

    def close(self) -> None:
        if self.env is not None:
            self.env.close()

    def _where(self, field: int) -> str:
        return f"You are in row {int(field) // self.size + 1}, column {int(field) % self.size + 1}."

    @staticmethod
    def _info() -> dict[str, Any]:
        return {"admissible_commands": MOVES}
