"""A household game as plain data: what the rules engine (rules.py) plays, whoever made it.

Two sources make a ``Game``: generator.py from a seed, pddl.py from an ALFWorld file. The words are
ALFWorld's: a *receptacle* has a fixed place and may be opened; an *object* lies in a receptacle.
"""

from __future__ import annotations

from dataclasses import dataclass, field

#: the six task kinds, with ALFWorld's own names
KINDS = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)


@dataclass(frozen=True)
class Receptacle:
    """``name`` as spoken ("cabinet 12"), ``type`` as in ALFRED ("Cabinet"). Receptacles with the same
    ``location`` are reached together; the default "" is a location of its own."""

    name: str
    type: str
    openable: bool = False
    opened: bool = False
    location: str = ""


@dataclass(frozen=True)
class Thing:
    """An object. ``place`` is the name of the receptacle that it is in at the start, None if in none.

    The last four fields have a use in real games only, whose simulator had its quirks: an object may be
    in further receptacles too (``more_places``), and be within reach of other locations than theirs
    (``locations``, None means theirs). What a ``container`` holds is fixed: it is only told by ``examine``.
    """

    name: str
    type: str
    place: str | None
    pickupable: bool = True
    cleanable: bool = False
    heatable: bool = False
    coolable: bool = False
    sliceable: bool = False
    toggleable: bool = False
    clean: bool = False
    hot: bool = False
    cool: bool = False
    sliced: bool = False
    toggled: bool = False
    more_places: tuple[str, ...] = ()
    locations: tuple[str, ...] | None = None
    container: bool = False
    contents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Goal:
    """What wins. ``state`` is "", "clean", "hot" or "cool". For ``look_at_obj_in_light``, ``lamp`` is the
    type of the lamp that must be on where the agent stands holding the object; ``receptacle`` is ""."""

    kind: str
    object: str
    receptacle: str = ""
    lamp: str = ""
    state: str = ""
    sliced: bool = False
    count: int = 1


@dataclass(frozen=True)
class Game:
    """Everything fixed about one game. Receptacles and things stand in the order in which they are listed
    when spoken ("you see a cabinet 2, a cabinet 1, and …"). ``start`` is the location where the agent
    stands at first; "" is the middle of the room."""

    id: str
    text: str  # the goal in words, as after "Your task is to: ", without the final full stop
    goal: Goal
    receptacles: tuple[Receptacle, ...]
    things: tuple[Thing, ...]
    can_contain: frozenset[tuple[str, str]]  # (receptacle type, object type)
    walkthrough: tuple[str, ...] = field(default=(), compare=False)
    start: str = ""
