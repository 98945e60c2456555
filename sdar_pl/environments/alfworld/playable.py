"""Games that are well written and cannot be played, or cannot be won."""

from __future__ import annotations

from collections import Counter

from sdar_pl.environments.household.game import Game
from sdar_pl.errors import UserError


def refuse_unplayable(game: Game) -> None:
    """Raises ``UserError`` for a thing in a receptacle that is nowhere, and for a goal whose parts are not there.

    Whether the rest of a solution exists (a way to heat, a free hand) is not checked.
    """
    names = {receptacle.name for receptacle in game.receptacles}
    for thing in game.things:
        for place in (thing.place, *thing.more_places):
            if place is not None and place not in names:
                raise UserError(f"'{thing.name}' is in '{place}', which has no location")
    goal = game.goal
    needed = {goal.object: goal.count, goal.receptacle: 1, goal.lamp: 1}
    there = Counter([thing.type for thing in game.things] + [receptacle.type for receptacle in game.receptacles])
    for type, count in needed.items():
        if type and there[type] < count:
            raise UserError(f"no solution (the goal needs {count} of type {type}, the game has {there[type]})")
