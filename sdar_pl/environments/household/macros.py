"""The macro command "fetch <object>": a high-level tool beside the household's low-level commands.

A helper walks through the house and brings the first object of this type that lies open: on a surface or in an open
receptacle. It opens nothing. The agent stays where it is. Where no such object lies open, the command costs a step and
changes nothing, so that it pays for some games and not for others (``lies_open``).
"""

from __future__ import annotations

import random

from sdar_pl.environments.household.expert import Expert
from sdar_pl.environments.household.game import Game, Thing
from sdar_pl.environments.household.rules import HouseholdSession
from sdar_pl.types import Observation

FETCH = "fetch "


class MacroSession(HouseholdSession):
    """An episode in which "fetch" and the goal's object ("fetch mug") is a command while the hands are empty.

    The helper leaves alone what the agent has put down.
    """

    @property
    def command(self) -> str:
        """The one macro command of the game."""
        return FETCH + self.game.goal.object.lower()

    def reset(self) -> Observation:
        self._put_down: set[int] = set()
        return super().reset()

    def _commands(self) -> tuple[str, ...]:
        commands = super()._commands()
        return commands if self._held >= 0 else tuple(sorted([*commands, self.command]))

    def _act(self, command: str) -> str:
        if command != self.command:
            return super()._act(command)
        for r, receptacle in enumerate(self._receptacles):
            for o in self._inside[r] if not receptacle.openable or r in self._opened else []:
                if wanted(self.game, self._things[o]) and o not in self._put_down:
                    self._take(o, r)
                    self._reach.get(self._where[r], set()).discard(o)
                    return f"You pick up the {self._name(o)} from the {receptacle.name}. A helper has brought it."
        return f"A helper finds no {self.command.removeprefix(FETCH)} that lies open."

    def _put(self, o: int, r: int) -> None:
        super()._put(o, r)
        self._put_down.add(o)


def wanted(game: Game, thing: Thing) -> bool:
    """Whether the object has the goal's type and can be carried."""
    return thing.type == game.goal.object and thing.pickupable


def lies_open(game: Game) -> bool:
    """Whether an object of the goal's type lies open when the game begins."""
    closed = {r.name for r in game.receptacles if r.openable and not r.opened}
    return any(wanted(game, thing) and thing.place is not None and thing.place not in closed for thing in game.things)


class MacroExpert(Expert):
    """An ``Expert`` that calls the helper before it searches by itself, with the probability ``share`` in each game.

    Args:
        task_text: the goal's text.
        rng: breaks ties, and draws whether the helper is called.
        share: probability that the helper is called, 0 to 1.
    """

    def __init__(self, task_text: str, rng: random.Random | None = None, share: float = 1.0) -> None:
        super().__init__(task_text, rng)
        self.calls = self.aim.copies if self.rng.random() < share else 0

    def _fetch(self) -> str:
        if self.calls:
            self.calls -= 1
            return FETCH + self.aim.object
        return super()._fetch()
