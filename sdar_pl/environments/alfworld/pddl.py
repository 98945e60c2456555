"""ALFWorld game files (``game.tw-pddl``) → ``Game``.

The file is JSON with a PDDL problem in it. This module reads the facts of ``:init`` and recognises ALFRED's six goals.
It does not read the domain: the rules are household/rules.py. It derives what the official engine derives from a
problem: spoken names, their numbers, and the order of lists.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdar_pl.environments.alfworld.playable import refuse_unplayable
from sdar_pl.environments.household.game import Game, Goal, Receptacle, Thing
from sdar_pl.errors import UserError


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: predicates that ``:init`` may have; those of the last line have no effect on the rules
_INIT = _words(
    """atlocation receptacleatlocation objectatlocation openable opened inreceptacle isreceptacleobject
    inreceptacleobject receptacletype cancontain objecttype isclean cleanable ishot heatable iscool coolable
    pickupable toggleable istoggled sliceable issliced
    full checked examined wasinreceptacle ison moveable isreceptacleobjectfull holdsanyreceptacleobject"""
)
_GOAL = _words(
    """objecttype receptacletype inreceptacle cleanable isclean heatable ishot coolable iscool sliceable issliced
    toggleable istoggled receptacleatlocation atlocation holds ="""
)
#: first words of the lists before the goal in a usual file, in the official spelling
_HEAD = re.compile(r"\(\s*([^\s()]+)")
_HEADS = _words(
    """define problem :domain :objects :init atLocation receptacleAtLocation objectAtLocation openable opened
    inReceptacle isReceptacleObject inReceptacleObject receptacleType canContain objectType isClean cleanable isHot
    heatable isCool coolable pickupable toggleable isToggled sliceable isSliced"""
)
_TASK = re.compile(r"Your task is to: (.*?)\.?\"")

Facts = dict[str, list[tuple[str, ...]]]
Expression = list[Any]  # of words and expressions


def load_game(path: str | Path, id: str = "") -> Game:
    """Read one game. ``id`` is by default the path.

    Raises ``UserError``, in one line that names the file, for a file that is cut off or not a game, for predicates or a
    goal that the rules do not have, and for a game that cannot be played or won.
    """
    with _errors_name(path):
        return _game(_read(path), id or str(path))


def read_text(path: str | Path) -> str:
    """``load_game(path).text``, several times as fast, for reading thousands of files.

    It raises for a cut-off file, an unknown predicate and a goal that is not one of the six. Only ``load_game`` checks
    the number of names in a fact, and whether the goal's objects are there.
    """
    with _errors_name(path):
        data = _read(path)
        problem: str = data["pddl_problem"]
        start = problem.find("(:goal")
        usual = start > 0 and problem.count("(") == problem.count(")")
        if not usual or not _HEADS.issuperset(_HEAD.findall(problem[:start])):
            return _game(data, "").text  # raises the exact error, if there is one
        _goal(_sections(f"((:init) {problem[start:]}")[":goal"])
        return _text(data)


@contextmanager
def _errors_name(path: str | Path) -> Iterator[None]:
    """Convert errors of reading and parsing to a ``UserError`` that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a whole JSON file ({error})") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deep") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # a file may be wrong in ways that no check expects
        raise UserError(
            f"{path}: not an ALFWorld game ({type(error).__name__}: {' '.join(str(error).split())})"
        ) from None


def _read(path: str | Path) -> dict[str, Any]:
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe would be waited for
        raise UserError("not a regular file")
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict) or not isinstance(data.get("pddl_problem"), str):
        raise UserError("not an ALFWorld game; the key 'pddl_problem' is missing")
    if not data.get("solvable", True):
        raise UserError("no solution ('solvable' is false)")
    walkthrough = data.get("walkthrough") or []
    if not isinstance(walkthrough, list) or not all(isinstance(action, str) for action in walkthrough):
        raise UserError("'walkthrough' is no list of commands")
    return data


def _text(data: dict[str, Any]) -> str:
    task = _TASK.search(str(data.get("grammar", "")))
    if task is None:
        raise UserError("the grammar has no line 'Your task is to: …'")
    return task.group(1)


def _game(data: dict[str, Any], id: str) -> Game:
    sections = _sections(data["pddl_problem"])
    facts = _facts(sections[":init"])
    names = _names({name for facts_of in facts.values() for fact in facts_of for name in fact})
    game = Game(
        id=id,
        text=_text(data),
        goal=_goal(sections[":goal"]),
        receptacles=_receptacles(facts, names),
        things=_things(facts, names),
        can_contain=frozenset((_bare(r), _bare(o)) for r, o in _of(facts, "cancontain", 2)),
        walkthrough=tuple(data.get("walkthrough") or ()),
        start=next((location for _, location in _of(facts, "atlocation", 2)), ""),
    )
    refuse_unplayable(game)
    return game


def read_expression(text: str) -> Expression:
    """S-expressions → nested lists of words. Raises ``UserError`` for unbalanced parentheses."""
    stack: list[Expression] = [[]]
    # A list without inner lists is one token: five times as fast, since nearly all are flat.
    for token in re.findall(r"\([^()]*\)|[()]|[^\s()]+", re.sub(r";[^\n]*", "", text)):
        if token == "(":
            stack.append([])
        elif token[0] == "(":
            stack[-1].append(token[1:-1].split())
        elif token != ")":
            stack[-1].append(token)
        elif len(stack) == 1:
            raise UserError("the PDDL problem has one ')' too many")
        else:
            stack[-2].append(stack.pop())
    if len(stack) > 1:
        raise UserError("the PDDL problem ends early: a ')' is missing")
    return stack[0]


def _sections(problem: str) -> dict[str, Expression]:
    define = next((part for part in read_expression(problem) if isinstance(part, list)), [])
    sections = {part[0].lower(): part[1:] for part in define if isinstance(part, list) and isinstance(part[0], str)}
    for name in (":init", ":goal"):
        if name not in sections:
            raise UserError(f"the PDDL problem has no {name}")
    return sections


def _facts(init: Expression) -> Facts:
    """Facts by lower-case predicate. Names and types keep their spelling."""
    facts: Facts = defaultdict(list)
    for fact in init:
        predicate = str(fact[0]).lower() if isinstance(fact, list) and fact else str(fact)
        if predicate in _INIT:
            facts[predicate].append(tuple(map(str, fact[1:])))
        elif predicate != "=":  # (= (total-cost) 0)
            raise UserError(f"unknown predicate '{predicate}' in :init")
    return facts


def _of(facts: Facts, predicate: str, arguments: int) -> Iterator[tuple[str, ...]]:
    for fact in facts[predicate]:
        if len(fact) != arguments:
            raise UserError(f"'{predicate}' takes {arguments} names, not {len(fact)}")
        yield fact


def _names(words: Iterable[str]) -> dict[str, str]:
    """Spoken names by id, in the order of lists: ids sorted; the first of a type gets the highest number.

    "Cabinet_bar__minus_01_dot_16…" is "cabinet 12"; an id with "basin" in it is a "sinkbasin", not a "sink".
    """
    groups = {}
    for word in sorted((word for word in words if "_bar_" in word), key=str.lower):
        id = word.lower()
        groups[word] = id.split("_bar_", 1)[0] + ("basin" if "basin" in id else "")
    left = Counter(groups.values())
    names = {}
    for word, group in groups.items():
        names[word] = f"{group} {left[group]}"
        left[group] -= 1
    return names


def _bare(type: str) -> str:
    return type.removesuffix("Type")


def _receptacles(facts: Facts, names: dict[str, str]) -> tuple[Receptacle, ...]:
    types = {id: _bare(type) for id, type in _of(facts, "receptacletype", 2)}
    location = {id: where for id, where in _of(facts, "receptacleatlocation", 2)}  # noqa: C416 - dict() is untyped here
    openable, opened = (set(_of(facts, predicate, 1)) for predicate in ("openable", "opened"))
    return tuple(
        Receptacle(name, types.get(id, ""), (id,) in openable, (id,) in opened, location[id])
        for id, name in names.items()
        if id in location
    )


def _things(facts: Facts, names: dict[str, str]) -> tuple[Thing, ...]:
    types = {id: _bare(type) for id, type in _of(facts, "objecttype", 2)}
    places, locations, contents = (defaultdict[str, set[str]](set) for _ in range(3))
    for id, receptacle in _of(facts, "inreceptacle", 2):
        places[id].add(names.get(receptacle, receptacle))
    for id, location in _of(facts, "objectatlocation", 2):
        locations[id].add(location)
    for inner, outer in _of(facts, "inreceptacleobject", 2):
        contents[outer].add(names.get(inner, inner))
    flags = {
        field: {id for id, in _of(facts, predicate, 1)}
        for field, predicate in {
            "pickupable": "pickupable", "cleanable": "cleanable", "heatable": "heatable", "coolable": "coolable",
            "sliceable": "sliceable", "toggleable": "toggleable", "clean": "isclean", "hot": "ishot",
            "cool": "iscool", "sliced": "issliced", "toggled": "istoggled", "container": "isreceptacleobject",
        }.items()
    }  # fmt: skip
    things = []
    for id, name in names.items():
        if id in places or id in locations or id in types:
            inside = sorted(places[id])
            things.append(
                Thing(
                    name=name,
                    type=types.get(id, ""),
                    place=inside[0] if inside else None,
                    more_places=tuple(inside[1:]),
                    locations=tuple(sorted(locations[id])),
                    contents=tuple(sorted(contents[id])),
                    **{field: id in ids for field, ids in flags.items()},
                )
            )
    return tuple(things)


def _goal(goal: Expression) -> Goal:
    """One of ALFRED's goals: objects of one type in a receptacle, or one held beside a lamp that was turned on.

    Raises ``UserError`` for any other.
    """
    facts: Facts = defaultdict(list)
    _flatten(goal, facts)
    types = {object: _bare(type) for object, type in _of(facts, "objecttype", 2)}
    receptacles = {receptacle: _bare(type) for receptacle, type in _of(facts, "receptacletype", 2)}
    states = [state for state in ("clean", "hot", "cool") if facts[f"is{state}"]]
    lamps = {types.get(lamp, "") for (lamp,) in _of(facts, "istoggled", 1)}
    held = {types.get(object, "") for _, object in _of(facts, "holds", 2)}
    if len(lamps) == len(held) == 1 and "" not in lamps | held:
        return Goal("look_at_obj_in_light", held.pop(), lamp=lamps.pop())
    placed = set(_of(facts, "inreceptacle", 2))
    objects = {types.get(object, "") for object, _ in placed}
    places = {receptacles.get(receptacle, "") for _, receptacle in placed}
    if len(objects) != 1 or len(places) != 1 or "" in objects | places or len(states) > 1:
        raise UserError("the :goal is none of ALFRED's six")
    kind = "pick_two_obj_and_place" if len(placed) == 2 else "pick_and_place_simple"
    verb = {"clean": "clean", "hot": "heat", "cool": "cool"}
    return Goal(
        kind=f"pick_{verb[states[0]]}_then_place_in_recep" if states else kind,
        object=objects.pop(),
        receptacle=places.pop(),
        state=states[0] if states else "",
        sliced=bool(facts["issliced"]),
        count=len(placed),
    )


def _flatten(expression: Expression, facts: Facts) -> None:
    """Collect the atoms of a conjunction. ALFRED's only negation is (not (= ?o1 ?o2))."""
    for part in expression:
        if isinstance(part, str) or not part:
            continue
        head = part[0].lower() if isinstance(part[0], str) else ""
        if head in ("and", "not"):
            _flatten(part[1:], facts)
        elif head == "exists":
            _flatten(part[2:], facts)
        elif head in _GOAL:
            facts[head].append(tuple(word for word in part[1:] if isinstance(word, str)))
        else:
            raise UserError(f"unknown predicate '{head}' in :goal")
