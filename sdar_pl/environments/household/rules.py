"""The household rules in plain Python: the commands of a ``Game``, their effects and their feedback.

Feedback, admissible commands and the condition of success equal those of ALFWorld's engine (its PDDL domain and text
grammar) word for word, without its planner, grammar and processes. Comments mark where that engine is odd. The state of
an episode is in its ``HouseholdSession``; a ``Game`` never changes, and threads can share it. Left out: reading game
files (alfworld/pddl.py), generating games (generator.py), prompts (prompts.py).
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence

from sdar_pl.environments.base import Session
from sdar_pl.environments.household.game import Game, Thing
from sdar_pl.environments.household.prompts import HEADER
from sdar_pl.types import Observation

NOTHING_HAPPENS = "Nothing happens."

HELP = """Available commands:
  look:                             look around your current location
  inventory:                        check your current inventory
  go to (receptacle):               move to a receptacle
  open (receptacle):                open a receptacle
  close (receptacle):               close a receptacle
  take (object) from (receptacle):  take an object from a receptacle
  move (object) to (receptacle):  place an object in or on a receptacle
  examine (something):              examine a receptacle or an object
  use (object):                     use an object
  heat (object) with (receptacle):  heat an object using a receptacle
  clean (object) with (receptacle): clean an object using a receptacle
  cool (object) with (receptacle):  cool an object using a receptacle
  slice (object) with (object):     slice an object using a sharp object
"""

_SINKS = ("Sink", "SinkBasin")
_KNIVES = ("Knife", "ButterKnife")
_NOTHING = -1  # held: no object


class HouseholdSession(Session):
    """One episode of a ``Game``.

    Args:
        game: the game.
        success_reward: reward of the step that wins; every other step has reward 0.

    After success further steps change nothing and return the last observation with reward 0.
    """

    def __init__(self, game: Game, success_reward: float = 10.0) -> None:
        self.game = game
        self.success_reward = success_reward
        self._receptacles = game.receptacles
        self._things = game.things
        self._receptacle_index = {r.name: i for i, r in enumerate(game.receptacles)}
        self._thing_index = {t.name: i for i, t in enumerate(game.things)}
        self._where = [r.location or r.name for r in game.receptacles]
        self._residents: dict[str, list[int]] = {game.start: []}  # location → its receptacles
        for i, location in enumerate(self._where):
            self._residents.setdefault(location, []).append(i)
        self._goal_things = {i for i, thing in enumerate(game.things) if _fits(game, thing)}
        self._goal_receptacles = [i for i, r in enumerate(game.receptacles) if r.type == game.goal.receptacle]
        self._lamps = {i for i, t in enumerate(game.things) if t.type == game.goal.lamp and t.toggleable}
        # Commands that are always admissible at a location. "go to" the present location is not among them.
        anywhere = ["help", "inventory", "look"]
        self._always = {
            here: anywhere
            + [f"go to {r.name}" for r, there in zip(game.receptacles, self._where, strict=True) if there != here]
            for here in self._residents
        }

    def reset(self) -> Observation:
        game, things = self.game, self._things
        self._here = game.start
        self._held = _NOTHING
        self._opened = {i for i, r in enumerate(game.receptacles) if r.opened}
        self._inside: list[list[int]] = [[] for _ in game.receptacles]  # sorted by index: the order of lists
        self._reach: dict[str, set[int]] = {}  # location → the objects there
        for i, thing in enumerate(things):
            places = [self._receptacle_index[p] for p in (thing.place, *thing.more_places) if p is not None]
            for place in places:
                self._inside[place].append(i)
            for location in [self._where[p] for p in places] if thing.locations is None else thing.locations:
                self._reach.setdefault(location, set()).add(i)
        self._left: set[tuple[int, int]] = set()  # (object, a receptacle that it was taken from)
        self._clean = {i for i, t in enumerate(things) if t.clean}
        self._hot = {i for i, t in enumerate(things) if t.hot}
        self._cool = {i for i, t in enumerate(things) if t.cool}
        self._sliced = {i for i, t in enumerate(things) if t.sliced}
        self._toggled = {i for i, t in enumerate(things) if t.toggled}
        self._done = False
        look = self._look() if self._residents[self._here] else _MIDDLE + _listing([r.name for r in game.receptacles])
        return self._observe(f"{HEADER}\n\n{look}.\n\nYour task is to: {game.text}.")

    def step(self, action: str) -> Observation:
        if self._done:
            return Observation(self._text, self._admissible, 0.0, True, True)
        action = action.strip()
        text = self._act(action) if action in self._admissible else NOTHING_HAPPENS
        if self._wins():
            self._done = True
        return self._observe(text)

    def _observe(self, text: str) -> Observation:
        self._text = text
        self._admissible = self._commands()
        return Observation(text, self._admissible, self.success_reward if self._done else 0.0, self._done, self._done)

    def _commands(self) -> tuple[str, ...]:
        """All commands that are admissible now, sorted."""
        things, held = self._things, self._held
        commands = self._always[self._here].copy()
        for r in self._residents[self._here]:
            receptacle = self._receptacles[r]
            name = receptacle.name
            accessible = not receptacle.openable or r in self._opened
            commands.append(f"examine {name}")
            if receptacle.openable:
                commands.append(f"close {name}" if accessible else f"open {name}")
            for o in self._inside[r]:
                thing = things[o]
                if thing.toggleable:  # even in a closed receptacle
                    commands.append(f"use {thing.name}")
                if accessible and thing.pickupable and held == _NOTHING:
                    commands.append(f"take {thing.name} from {name}")
            if held != _NOTHING:
                thing = things[held]
                if accessible and (receptacle.type, thing.type) in self.game.can_contain:
                    commands.append(f"move {thing.name} to {name}")
                if thing.cleanable and receptacle.type in _SINKS:
                    commands.append(f"clean {thing.name} with {name}")
                if thing.heatable and receptacle.type == "Microwave":  # open or closed
                    commands.append(f"heat {thing.name} with {name}")
                if thing.coolable and receptacle.type == "Fridge":
                    commands.append(f"cool {thing.name} with {name}")
        if held != _NOTHING:
            knife = things[held]
            commands.append(f"examine {knife.name}")  # only what is held can be examined
            if knife.type in _KNIVES:  # slices everything within reach, even in a closed receptacle
                sliceable = (things[o] for o in self._reach.get(self._here, ()) if things[o].sliceable)
                commands.extend(f"slice {thing.name} with {knife.name}" for thing in sliceable)
        return tuple(sorted(set(commands)))

    def _act(self, command: str) -> str:
        """Execute an admissible command and return its feedback. Names have two words, a type and a number."""
        verb, *words = command.split(" ")
        if verb == "go":
            r = self._receptacle_index[f"{words[1]} {words[2]}"]
            self._here = self._where[r]
            return f"You arrive at {self._receptacles[r].name}. {self._describe(r)}"
        if verb == "look":
            return self._look() + "."
        if verb == "inventory":
            return (
                "You are not carrying anything."
                if self._held == _NOTHING
                else f"You are carrying: a {self._name(self._held)}."
            )
        if verb == "help":
            return HELP
        first = f"{words[0]} {words[1]}"
        if verb == "open":
            self._opened.add(self._receptacle_index[first])
            return f"You open the {first}. {self._describe(self._receptacle_index[first])}"
        if verb == "close":
            self._opened.remove(self._receptacle_index[first])
            return f"You close the {first}."
        if verb == "examine":
            r = self._receptacle_index.get(first, -1)
            return self._describe(r) if r >= 0 else self._examine(self._thing_index[first])
        o = self._thing_index[first]
        if verb == "use":  # never turns a lamp off: the goal asks whether it was toggled
            self._toggled.add(o)
            return f"You turn on the {first}."
        second = f"{words[3]} {words[4]}"
        if verb == "take":
            self._take(o, self._receptacle_index[second])
            return f"You pick up the {first} from the {second}."
        if verb == "move":
            self._put(o, self._receptacle_index[second])
            return f"You move the {first} to the {second}."
        if verb == "slice":
            self._sliced.add(o)
            return f"You sliced the {first} with the {second}."
        if verb == "clean":
            self._clean.add(o)
        elif verb == "heat":
            self._hot.add(o)
            self._cool.discard(o)
        else:
            self._cool.add(o)
            self._hot.discard(o)
        return f"You {verb} the {first} using the {second}."

    def _take(self, o: int, r: int) -> None:
        self._held = o
        self._inside[r].remove(o)
        self._left.add((o, r))
        self._reach.get(self._here, set()).discard(o)

    def _put(self, o: int, r: int) -> None:
        self._held = _NOTHING
        if o not in self._inside[r]:  # in real games it can be there already: an object may be in two receptacles
            insort(self._inside[r], o)
        self._left.discard((o, r))
        self._reach.setdefault(self._here, set()).add(o)

    def _name(self, o: int) -> str:
        return self._things[o].name

    def _describe(self, r: int) -> str:
        """The contents of a receptacle, as feedback."""
        receptacle = self._receptacles[r]
        name = receptacle.name
        if not receptacle.openable:
            return f"On the {name}, you see {_listing([self._name(o) for o in self._inside[r]])}."
        if r not in self._opened:
            return f"The {name} is closed."
        return f"The {name} is open. In it, you see {_listing([self._name(o) for o in self._inside[r]])}."

    def _look(self) -> str:
        """Feedback of ``look``. "Next to" a receptacle are the objects at its location that were once taken from it."""
        residents = self._residents[self._here]
        if not residents:
            return _MIDDLE + "nothing"  # only the first observation lists the whole room
        facing = _series([self._receptacles[r].name for r in residents])
        reach = sorted(self._reach.get(self._here, ()))
        beside = [self._name(o) for o in reach for r in residents if (o, r) in self._left]
        return f"You are facing the {facing}. Next to it, you see {_listing(beside)}"

    def _examine(self, o: int) -> str:
        thing = self._things[o]
        if thing.container:
            inner = [t.name for t in self._things if t.name in thing.contents and t is not thing]
            return f"This is a normal {thing.name}. In it, you see {_listing(inner)}."
        words = ["hot"] if o in self._hot else ["cool"] if o in self._cool else []
        if o in self._clean:
            words.append("clean")
        if words and o in self._sliced:
            return f"This is a {' and '.join(words)} sliced {thing.name}."
        if words:
            return f"This is a {'cold' if words == ['cool'] else ' and '.join(words)} {thing.name}."
        if thing.toggleable and o in self._toggled:
            return f"This {thing.name} is on."
        if o in self._sliced:
            return f"This is a sliced {thing.name}."
        return f"There's nothing special about {thing.name}."

    def _wins(self) -> bool:
        goal = self.game.goal
        if goal.lamp:
            return self._held in self._goal_things and any(
                o in self._lamps and o in self._toggled for r in self._residents[self._here] for o in self._inside[r]
            )
        state = {"clean": self._clean, "hot": self._hot, "cool": self._cool}.get(goal.state)
        for r in self._goal_receptacles:
            good = self._goal_things.intersection(self._inside[r])
            if state is not None:
                good &= state
            if goal.sliced:
                good &= self._sliced
            if len(good) >= goal.count:
                return True
        return False


_MIDDLE = "You are in the middle of a room. Looking quickly around you, you see "


def _series(parts: Sequence[str]) -> str:
    """ "x", "x, and y", "x, y, and z"; "nothing" for none."""
    if not parts:
        return "nothing"
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])}, and {parts[-1]}"


def _listing(names: Sequence[str]) -> str:
    return _series([f"a {name}" for name in names])


def _fits(game: Game, thing: Thing) -> bool:
    """Whether the object has the goal's type and can get the goal's state."""
    able = {"clean": thing.cleanable, "hot": thing.heatable, "cool": thing.coolable}
    return thing.type == game.goal.object and able.get(game.goal.state, True)
