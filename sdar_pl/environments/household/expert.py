"""Scripted players. Their only knowledge of a game is the goal's text and the observations so far.

``Expert`` solves every generated game: it searches plausible receptacles first and follows each task's procedure.
``Novice`` gives the same well-formed commands, but errs in the procedure with the probabilities of ``Mistakes``. Its
episodes teach the tiny default policy the game *without* skills. Left out: slicing, and planning the shortest way.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from sdar_pl.environments.household import catalog
from sdar_pl.errors import UserError
from sdar_pl.types import Observation

#: state → (the verb of the command, the receptacle noun)
_TOOLS = {"clean": ("clean", "sinkbasin"), "hot": ("heat", "microwave"), "cool": ("cool", "fridge")}
_STATES = {"clean": "clean", "hot": "hot", "heat": "hot", "cool": "cool"}

_GOALS = tuple(
    re.compile(pattern)
    for pattern in (
        r"look at (?P<object>\w+) under the (?P<lamp>\w+)",
        r"examine the (?P<object>\w+) with the (?P<lamp>\w+)",
        r"(?P<state>clean|heat|cool) some (?P<object>\w+) and put it in (?P<receptacle>\w+)",
        r"put a (?P<state>clean|hot|cool) (?P<object>\w+) in (?P<receptacle>\w+)",
        r"(?:put|find) (?P<two>two) (?P<object>\w+) (?:in|and put them in) (?P<receptacle>\w+)",
        r"put (?:a|some) (?P<object>\w+) (?:in|on) (?P<receptacle>\w+)",
    )
)
_CONTENTS = re.compile(r"(?:On the|The) (\w+ \d+)(?:, you see| is open\. In it, you see) ([^.]*)\.")
_NAME = re.compile(r"\ban? (\w+ \d+)")

_RTYPES = {rtype.lower(): rtype for room in catalog.ROOMS.values() for rtype in room.receptacles}
_OTYPES = {otype.lower(): otype for room in catalog.ROOMS.values() for otype in room.objects}


@dataclass(frozen=True)
class Aim:
    """A goal's text in parts: lower-case nouns; ``state`` is "", "clean", "hot" or "cool".

    Example:
        ``Aim.parse("find two mug and put them in shelf") == Aim("mug", "shelf", copies=2)``
    """

    object: str
    receptacle: str = ""
    lamp: str = ""
    state: str = ""
    copies: int = 1

    @classmethod
    def parse(cls, text: str) -> Aim:
        """Parse any of ALFWorld's templates. Raises ``UserError`` for another text."""
        for pattern in _GOALS:
            if match := pattern.search(text.lower()):
                words = match.groupdict(default="")
                return cls(
                    words["object"],
                    words.get("receptacle", ""),
                    words.get("lamp", ""),
                    _STATES.get(words.get("state", ""), ""),
                    2 if "two" in words else 1,
                )
        raise UserError(f"goal {text!r}: follows none of ALFWorld's templates, such as 'put a mug in shelf'")


def _noun(name: str) -> str:
    return name.rsplit(" ", 1)[0]


class Expert:
    """A player of one game: give each observation to ``act``, which returns the next command.

    Args:
        task_text: the goal's text.
        rng: breaks ties between equally plausible receptacles.

    Raises ``UserError`` for a goal that ``Aim.parse`` cannot read.
    """

    def __init__(self, task_text: str, rng: random.Random | None = None) -> None:
        self.aim = Aim.parse(task_text)
        self.rng = rng or random.Random(0)
        self.last = ""  # the last command
        self.here = ""
        self.held = ""
        self.target = ""  # the receptacle chosen for the first object, kept for the second
        self.luck: dict[str, float] = {}  # every receptacle → its tie-break
        self.closed: set[str] = set()
        self.searched: set[str] = set()  # receptacles whose contents are known
        self.where: dict[str, str] = {}  # object → the receptacle it was last seen in
        self.treated: set[str] = set()  # objects that were cleaned, heated or cooled as asked

    def act(self, observation: Observation) -> str:
        """The next command. ``observation`` answers the last command; the first one is that of ``reset``."""
        self._observe(observation.text)
        self.last = self._decide()
        return self.last

    def _observe(self, text: str) -> None:
        if not self.luck and (room := re.search(r"you see (.*?)\.(?:\s|$)", text, re.DOTALL)):
            self.luck = {name: self.rng.random() for name in _NAME.findall(room[1])}
            return
        if match := re.search(r"You arrive at (\w+ \d+)\.", text):
            self.here = match[1]
        elif text == "Nothing happens." and self.last.startswith("go to "):
            self.here = self.last.removeprefix("go to ")  # in real games one location can have several receptacles
        if match := re.search(r"The (\w+ \d+) is closed\.", text):
            self.closed.add(match[1])
        for receptacle, listed in _CONTENTS.findall(text):
            self.closed.discard(receptacle)
            self.searched.add(receptacle)
            self.where = {name: place for name, place in self.where.items() if place != receptacle}
            self.where.update(dict.fromkeys(_NAME.findall(listed), receptacle))
        if match := re.search(r"You pick up the (\w+ \d+)", text):
            self.held = match[1]
            self.where.pop(self.held, None)
        if match := re.search(r"You move the (\w+ \d+) to the (\w+ \d+)", text):
            self.held = ""
            self.where[match[1]] = match[2]
        if match := re.search(r"You (?:clean|heat|cool) the (\w+ \d+) using", text):
            self.treated.add(match[1])

    def _decide(self) -> str:
        if not self.held:
            return self._fetch()
        return self._light() if self.aim.lamp else self._deliver()

    def _fetch(self) -> str:
        for name, place in self.where.items():
            delivered = place == self.target and (not self.aim.state or name in self.treated)
            if _noun(name) == self.aim.object and not delivered:
                return self._go(place) or f"take {name} from {place}"
        return self._search(self.aim.object)

    def _light(self) -> str:
        for name, place in self.where.items():
            if _noun(name) == self.aim.lamp:
                return self._go(place) or f"use {name}"
        return self._search(self.aim.lamp)

    def _deliver(self) -> str:
        if self.aim.state and self.held not in self.treated:
            verb, noun = _TOOLS[self.aim.state]
            tool = self._nearest(noun)
            return self._go(tool) or f"{verb} {self.held} with {tool}"
        self.target = self.target or self._nearest(self.aim.receptacle)
        return self._put(self.target)

    def _put(self, place: str) -> str:
        if place in self.closed and place == self.here:
            return f"open {place}"
        return self._go(place) or f"move {self.held} to {place}"

    def _nearest(self, noun: str) -> str:
        """A receptacle of this noun: the present one, else one not seen closed, else the one of the lowest number."""
        names = [name for name in self.luck if _noun(name) == noun]
        return min(names, key=lambda name: (name != self.here, name in self.closed, int(name.rsplit(" ", 1)[1])))

    def _go(self, place: str) -> str:
        return "" if place == self.here else f"go to {place}"

    def _search(self, noun: str) -> str:
        if self.here in self.closed - self.searched:
            return f"open {self.here}"
        if self.here and self.here not in self.searched:
            return f"examine {self.here}"
        left = [name for name in self.luck if name not in self.searched and name != self.here]
        if not left:
            self.searched.clear()  # the object was overlooked: search everything again
            return "look"
        return self._go(max(left, key=lambda name: (self._plausible(noun, name), self.luck[name])))

    def _plausible(self, noun: str, receptacle: str) -> float:
        otype, rtype = _OTYPES.get(noun, ""), _RTYPES.get(_noun(receptacle), "")
        rooms = (room for room in catalog.ROOMS.values() if otype in room.objects)
        return max((room.places(otype).get(rtype, 0) for room in rooms), default=0)


@dataclass(frozen=True)
class Mistakes:
    """Probabilities of a ``Novice``'s errors. With every one below 1 success stays possible."""

    random_order: float = 0.8  # per game: search anywhere instead of plausible places first
    skip_state: float = 0.7  # per game: place the object without cleaning, heating or cooling it
    skip_take: float = 0.4  # per game: use the lamp without fetching the object
    skip_lamp: float = 0.55  # per game: stop once the object is taken
    stop_early: float = 0.65  # per game: stop after the first of two objects
    leave_closed: float = 0.4  # per closed receptacle: go on without opening it
    wrong_place: float = 0.45  # per object: put it into a wrong receptacle
    wander: float = 0.12  # per turn: give a command that leads nowhere
    recover: float = 0.04  # per turn after stopping too early: play on as the expert does


class Novice(Expert):
    """An ``Expert`` that makes ``mistakes``. Its commands are always well formed."""

    def __init__(self, task_text: str, rng: random.Random | None = None, mistakes: Mistakes | None = None) -> None:
        super().__init__(task_text, rng)
        self.mistakes = m = mistakes or Mistakes()
        self.random_order = self._chance(m.random_order)
        self.skip_state = bool(self.aim.state) and self._chance(m.skip_state)
        self.skip_take = bool(self.aim.lamp) and self._chance(m.skip_take)
        self.skip_lamp = bool(self.aim.lamp) and self._chance(m.skip_lamp)
        self.stop_early = self.aim.copies > 1 and self._chance(m.stop_early)
        self.recovered = False
        self.content = False  # takes the task for done
        self.wrong = ""  # the wrong receptacle for the held object
        self.delivered = 0

    def _chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def _observe(self, text: str) -> None:
        super()._observe(text)
        if self.recovered:
            return
        if "You pick up the" in text:
            self.wrong = self._wrong_place() if self._chance(self.mistakes.wrong_place) else ""
            self.content |= self.skip_lamp
        if "You move the" in text:
            self.delivered += 1
            self.content |= self.stop_early or self.delivered >= self.aim.copies
        if "You turn on the" in text:
            self.content = True
        if text.endswith("is closed.") and self._chance(self.mistakes.leave_closed):
            self.searched.add(self.here)

    def _decide(self) -> str:
        if self.content and self._chance(self.mistakes.recover):
            self.content = self.skip_state = self.skip_take = False
            self.recovered, self.wrong = True, ""
            self.treated.clear()
        if self.content or self._chance(self.mistakes.wander):
            return self._aimless()
        if self.skip_take and not self.held:
            return self._light()
        return super()._decide()

    def _deliver(self) -> str:
        if self.skip_state:
            self.treated.add(self.held)  # as if it had the state already
        return self._put(self.wrong) if self.wrong else super()._deliver()

    def _plausible(self, noun: str, receptacle: str) -> float:
        return 0.0 if self.random_order else super()._plausible(noun, receptacle)

    def _wrong_place(self) -> str:
        wrong = [
            name
            for name in self.luck
            if _noun(name) != self.aim.receptacle
            and _OTYPES.get(_noun(self.held)) in catalog.CAN_CONTAIN.get(_RTYPES.get(_noun(name), ""), ())
        ]
        return self.rng.choice(wrong) if wrong and not self.aim.lamp else ""

    def _aimless(self) -> str:
        if self.here in self.closed and self._chance(0.3):
            return f"open {self.here}"
        if self._chance(0.25):
            return self.rng.choice(["look", "inventory", f"examine {self.held or self.here}" if self.here else "look"])
        return self._go(self.rng.choice(list(self.luck))) or "look"
