"""Household games from a seed: the same seed makes the same game on every machine.

A game is built around its goal, so it can always be solved. First comes what the task needs: a place to put the
object, a place to find it, the sinkbasin, microwave, fridge or lamp. Then come furniture and other objects as they
occur in real rooms. Left out: sliced objects, movable receptacles, receptacles that are open at the start.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

from sdar_pl.checks import one_of
from sdar_pl.environments.household import catalog
from sdar_pl.environments.household.catalog import LAMP, ROOMS, Room
from sdar_pl.environments.household.game import KINDS, Game, Goal, Receptacle, Thing

Size = Literal["tiny", "small", "full"]
SIZES: tuple[Size, ...] = get_args(Size)


class _Extent(NamedTuple):
    receptacles: tuple[int, int]  # fewest and most
    things: tuple[int, int]  # fewest and most
    most: int  # receptacles of one type
    spare: float  # probability of one object of the goal's type more than the goal needs


_EXTENTS = {
    "tiny": _Extent((5, 7), (4, 6), 2, 0.1),
    "small": _Extent((8, 11), (8, 12), 3, 0.3),
    "full": _Extent((20, 30), (25, 40), 14, 0.5),
}


class _Recipe(NamedTuple):
    rooms: tuple[str, ...]
    wordings: tuple[str, ...]
    copies: int = 1
    state: str = ""
    tool: str = ""  # the receptacle type that brings about the state
    objects: frozenset[str] = frozenset()  # object types; empty means any


_RECIPES = {
    "pick_and_place_simple": _Recipe(tuple(ROOMS), ("put a {o} in {r}", "put some {o} on {r}")),
    "look_at_obj_in_light": _Recipe(
        ("bedroom", "livingroom"), ("look at {o} under the {lamp}", "examine the {o} with the {lamp}")
    ),
    "pick_clean_then_place_in_recep": _Recipe(
        ("kitchen", "kitchen", "bathroom"),
        ("put a clean {o} in {r}", "clean some {o} and put it in {r}"),
        state="clean",
        tool="SinkBasin",
        objects=catalog.CLEANABLE,
    ),
    "pick_heat_then_place_in_recep": _Recipe(
        ("kitchen",),
        ("put a hot {o} in {r}", "heat some {o} and put it in {r}"),
        state="hot",
        tool="Microwave",
        objects=catalog.HEATABLE,
    ),
    "pick_cool_then_place_in_recep": _Recipe(
        ("kitchen",),
        ("put a cool {o} in {r}", "cool some {o} and put it in {r}"),
        state="cool",
        tool="Fridge",
        objects=catalog.COOLABLE,
    ),
    "pick_two_obj_and_place": _Recipe(
        tuple(ROOMS), ("put two {o} in {r}", "find two {o} and put them in {r}"), copies=2
    ),
}


def generate(seed: int, *, kind: str | None = None, size: Size = "small") -> Game:
    """One game, a pure function of the arguments.

    Args:
        seed: of the random stream.
        kind: one of ``KINDS``; None draws one, each with the same probability.
        size: tiny (5–7 receptacles and 4–6 objects), small (8–11 and 8–12) or full (20–30 and about 25–40).

    Raises ``UserError`` for an unknown kind or size.
    """
    if kind is not None:
        one_of("kind", kind, KINDS)
    one_of("size", size, SIZES)
    rng = random.Random(seed)
    kind = kind or rng.choice(KINDS)
    recipe, extent = _RECIPES[kind], _EXTENTS[size]
    room = ROOMS[rng.choice(recipe.rooms)]
    goal = _goal(rng, kind, recipe, room)
    receptacles = _receptacles(rng, goal, recipe, room, extent)
    types = {receptacle.type for receptacle in receptacles}
    return Game(
        id=f"{size}/{kind}/{seed}",
        text=rng.choice(recipe.wordings).format(
            o=goal.object.lower(), r=goal.receptacle.lower(), lamp=goal.lamp.lower()
        ),
        goal=goal,
        receptacles=receptacles,
        things=_things(rng, goal, room, extent, receptacles),
        can_contain=frozenset((r, o) for r in types for o in catalog.CAN_CONTAIN.get(r, ())),
    )


def _goal(rng: random.Random, kind: str, recipe: _Recipe, room: Room) -> Goal:
    objects = sorted((recipe.objects or room.objects.keys()) & room.objects.keys() - {LAMP})
    if kind == "look_at_obj_in_light":
        return Goal(kind, rng.choice(objects), lamp=LAMP)
    # Draw the object before its target: all objects have the same probability, however many targets they have.
    targets: dict[str, list[str]] = {}
    for otype in objects:
        fit = [r for r in sorted(catalog.TARGETS[kind] & room.receptacles.keys()) if otype in catalog.CAN_CONTAIN[r]]
        targets[otype] = [r for r in fit if _sources(room, otype, r, recipe.state)]
    otype = rng.choice([o for o in objects if targets[o]])
    return Goal(kind, otype, rng.choice(targets[otype]), state=recipe.state, count=recipe.copies)


def _sources(room: Room, otype: str, target: str, state: str) -> dict[str, int]:
    """Receptacle types where the goal's object may lie at the start, with weights. The target is none where being there
    would fulfil the goal."""
    return {r: weight for r, weight in room.places(otype).items() if state or r != target}


def _draw(rng: random.Random, weights: dict[str, float] | dict[str, int]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def _receptacles(
    rng: random.Random, goal: Goal, recipe: _Recipe, room: Room, extent: _Extent
) -> tuple[Receptacle, ...]:
    needed = {_draw(rng, _sources(room, goal.object, goal.receptacle, goal.state))}
    needed |= {rtype for rtype in (goal.receptacle, recipe.tool) if rtype}
    if goal.lamp:
        needed.add(_draw(rng, room.places(goal.lamp)))
    number = rng.randint(*extent.receptacles)
    if number > len(room.receptacles):  # as many as a whole room has: include what nearly every such room has
        needed |= {rtype for rtype, (expected, _) in room.receptacles.items() if expected >= 0.7}
    counts = Counter(sorted(needed))
    while counts.total() < number:
        # Dividing by 1 + the present number keeps the mix near the real one; otherwise most would be cabinets.
        weights = {
            rtype: min(expected, extent.most) / (1 + counts[rtype])
            for rtype, (expected, most) in room.receptacles.items()
            if counts[rtype] < min(most, extent.most)
        }
        if not weights:
            break
        counts[_draw(rng, weights)] += 1
    return tuple(
        Receptacle(f"{rtype.lower()} {number}", rtype, openable=_openable(rng, rtype))
        for rtype, count in _listing_order(counts.items())
        for number in range(count, 0, -1)
    )


def _openable(rng: random.Random, rtype: str) -> bool:
    return rtype in catalog.OPENABLE or (rtype in catalog.SOMETIMES_OPENABLE and rng.random() < 0.85)


def _listing_order(counts: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """ALFWorld's order of types: alphabetical by the spoken name. Within a type the numbers descend."""
    return sorted(counts, key=lambda item: item[0].lower())


def _things(
    rng: random.Random, goal: Goal, room: Room, extent: _Extent, receptacles: tuple[Receptacle, ...]
) -> tuple[Thing, ...]:
    here: dict[str, list[str]] = {}
    for receptacle in receptacles:
        here.setdefault(receptacle.type, []).append(receptacle.name)
    possible = {
        otype: {r: w for r, w in room.places(otype).items() if r in here}
        for otype in room.objects
        if otype != goal.object
    }
    sources = _sources(room, goal.object, goal.receptacle, goal.state)
    possible[goal.object] = {r: w for r, w in sources.items() if r in here}

    placed: dict[str, list[str]] = {goal.object: [], **({goal.lamp: []} if goal.lamp else {})}

    def place(otype: str) -> None:
        placed.setdefault(otype, []).append(rng.choice(here[_draw(rng, possible[otype])]))

    number = rng.randint(*extent.things)
    for _ in range(goal.count + (rng.random() < extent.spare)):
        place(goal.object)
    if goal.lamp:
        place(goal.lamp)
    while sum(map(len, placed.values())) < number:
        weights = {
            otype: expected / (1 + len(placed.get(otype, ())))
            for otype, (expected, _) in room.objects.items()
            if possible[otype] and otype != goal.object and not (otype == LAMP and LAMP in placed)
        }
        if not weights:
            break
        place(_draw(rng, weights))
    return tuple(
        _thing(otype, number, placed[otype][number - 1])
        for otype, count in _listing_order((otype, len(names)) for otype, names in placed.items())
        for number in range(count, 0, -1)
    )


def _thing(otype: str, number: int, place: str) -> Thing:
    return Thing(
        f"{otype.lower()} {number}",
        otype,
        place,
        pickupable=otype != LAMP,
        cleanable=otype in catalog.CLEANABLE,
        heatable=otype in catalog.HEATABLE,
        coolable=otype in catalog.COOLABLE,
        sliceable=otype in catalog.SLICEABLE,
        toggleable=otype == LAMP,
    )
