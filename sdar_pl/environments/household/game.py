"""A household game as plain data: what rules.py plays.

A ``Game`` comes from generator.py (a seed) or from alfworld/pddl.py (an ALFWorld file). The words are ALFWorld's: a
*receptacle* has a fixed location and may be opened; an *object* (``Thing``) lies in a receptacle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sdar_pl.checks import one_of
from sdar_pl.errors import UserError

#: the six task kinds, with ALFWorld's own names
KINDS = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)


def chosen_kinds(kinds: Sequence[str] | None, key: str = "data.environment.kinds") -> tuple[str, ...]:
    """The value of ``key``; None means all. Raises ``UserError`` for an unknown kind and for no kind."""
    if kinds is None:
        return KINDS
    if not kinds:
        raise UserError(f"{key}: is empty; must name some of {', '.join(KINDS)}, or be null for all")
    return tuple(one_of(key, kind, KINDS) for kind in kinds)


@dataclass(frozen=True)
class Receptacle:
    """A piece of furniture.

    ``name`` is the spoken one ("cabinet 12"), ``type`` ALFRED's ("Cabinet"). Going to a receptacle reaches all of the
    same ``location``; the default "" means a location of its own.

    Example:
        ``Receptacle("cabinet 12", "Cabinet", openable=True)``
    """

    name: str
    type: str
    openable: bool = False
    opened: bool = False
    location: str = ""


@dataclass(frozen=True)
class Thing:
    """An object. ``place`` is the name of the receptacle where it starts, None for none.

    The last four fields are for real games only, whose simulator has quirks. An object may be in further receptacles
    (``more_places``). It may be within reach from other locations than those of its receptacles (``locations``; None
    means theirs). The ``contents`` of a ``container`` are fixed, and only ``examine`` lists them.

    Example:
        ``Thing("mug 2", "Mug", "cabinet 12", cleanable=True, heatable=True, coolable=True)``
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
    """The condition of success, in ALFRED's types.

    ``count`` objects of type ``object``, in the ``state`` ("", "clean", "hot" or "cool"), must be in one receptacle of
    type ``receptacle``. For ``look_at_obj_in_light`` the agent must hold the object where a ``lamp`` is that was turned
    on, and ``receptacle`` is "".

    Example:
        ``Goal("pick_heat_then_place_in_recep", "Mug", "Cabinet", state="hot")``
    """

    kind: str
    object: str
    receptacle: str = ""
    lamp: str = ""
    state: str = ""
    sliced: bool = False
    count: int = 1


@dataclass(frozen=True)
class Game:
    """One game: everything that does not change while it is played.

    Receptacles and things are in the order in which feedback lists them ("you see a cabinet 2, a cabinet 1, and …").
    ``start`` is the agent's first location; "" is the middle of the room. ``walkthrough`` is a solution that came with
    the game, if one did.
    """

    id: str
    text: str  # the goal in words, as after "Your task is to: ", without the final full stop
    goal: Goal
    receptacles: tuple[Receptacle, ...]
    things: tuple[Thing, ...]
    can_contain: frozenset[tuple[str, str]]  # (receptacle type, object type)
    walkthrough: tuple[str, ...] = field(default=(), compare=False)
    start: str = ""
