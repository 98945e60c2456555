"""Relations between entities, and their wordings in passages and questions.

A wording is a format with ``{o}`` for the relation's object, so that the expert reads facts by the same table by which
the generator writes them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """A property of one type of entity.

    Args:
        subject: the type of entity that has the property.
        object: the type of its value: a type of entity, or "number" or "word".
        wordings: predicates of a sentence about the subject.
        asked: questions about ``{s}``.
        noun: names the object of a subject in a longer question ("the author of {s}"); empty for a relation that is
            never a first hop.
    """

    subject: str
    object: str
    wordings: tuple[str, ...]
    asked: tuple[str, ...]
    noun: str = ""


RELATIONS = {
    "home": Relation(
        *("person", "town", ("comes from {o}", "grew up in {o}", "is a native of {o}")),
        ("From which town does {s} come?", "Which town is the home of {s}?"),
        "the home town of {s}",
    ),
    "trade": Relation(
        *("person", "word", ("works as a {o}", "earns a living as a {o}", "became a {o}")),
        ("What is the trade of {s}?", "What does {s} do for a living?"),
    ),
    "birth": Relation(
        *("person", "number", ("was born in the year {o}", "has celebrated birthdays since the year {o}")),
        ("In which year was {s} born?",),
    ),
    "river": Relation(
        *("town", "river", ("lies on the river {o}", "stands on the banks of the river {o}")),
        ("On which river does {s} lie?", "Which river flows through {s}?"),
        "the river of {s}",
    ),
    "streets": Relation(
        *("town", "number", ("has {o} streets", "counts {o} streets")), ("How many streets does {s} have?",)
    ),
    "fish": Relation(
        *("river", "word", ("is full of {o}", "is famous for its {o}")),
        ("Which fish is the river {s} famous for?", "Which fish lives in the river {s}?"),
    ),
    "length": Relation(
        *("river", "number", ("is {o} leagues long", "flows {o} leagues to the sea")),
        ("How many leagues long is the river {s}?",),
    ),
    "founder": Relation(
        *("company", "person", ("was founded by {o}", "owes its beginnings to {o}", "began as the workshop of {o}")),
        ("Who founded {s}?", "Who was the founder of {s}?"),
        "the founder of {s}",
    ),
    "product": Relation(
        *("company", "word", ("makes {o}", "sells {o}", "is known for its {o}")), ("What does {s} make?",)
    ),
    "opening": Relation(
        *("company", "number", ("opened in the year {o}", "has traded since the year {o}")),
        ("In which year did {s} open?",),
    ),
    "seat": Relation(
        *("company", "town", ("has its seat in {o}", "is based in {o}")),
        ("In which town does {s} have its seat?", "Where is {s} based?"),
        "the seat of {s}",
    ),
    "author": Relation(
        *("work", "person", ("was written by {o}", "comes from the pen of {o}", "is a novel by {o}")),
        ("Who wrote {s}?", "Who is the author of {s}?"),
        "the author of {s}",
    ),
    "chapters": Relation(
        *("work", "number", ("has {o} chapters", "tells its story in {o} chapters")), ("How many chapters has {s}?",)
    ),
}

#: question about two subjects → (relation, whether the smaller number wins; None: whether the objects are equal)
COMPARISONS = {
    "Who was born first, {a} or {b}?": ("birth", True),
    "Which company opened first, {a} or {b}?": ("opening", True),
    "Which town has more streets, {a} or {b}?": ("streets", False),
    "Which river is longer, {a} or {b}?": ("length", False),
    "Which novel has more chapters, {a} or {b}?": ("chapters", False),
    "Do {a} and {b} come from the same town?": ("home", None),
    "Do {a} and {b} have the same trade?": ("trade", None),
}

#: regular expressions of objects
_NAME = r"[A-Z]\w+"
_OBJECTS = {"number": r"\d+", "word": r"[a-z]+", "person": f"{_NAME} {_NAME}", "town": _NAME, "river": _NAME}


def read(relation: str, subject: str, title: str, text: str) -> str:
    """The object that a passage states for a subject; empty if the passage is about another or states none."""
    shape = _OBJECTS[RELATIONS[relation].object]
    for wording in RELATIONS[relation].wordings if title == subject else ():
        if found := re.search(rf"\b{wording.format(o=f'({shape})')}\b", text):
            return found[1]
    return ""
