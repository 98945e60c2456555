"""Questions about an invented world, in the four kinds of the benchmark's questions."""

from __future__ import annotations

import random
from collections.abc import Iterator

from sdar_pl.environments.search_qa.fiction.facts import COMPARISONS, RELATIONS
from sdar_pl.environments.search_qa.fiction.world import Entity
from sdar_pl.environments.search_qa.questions import Question

#: questions of each kind about one part of a world
EACH = 40


def questions(part: list[Entity], split: str, first: int, seed: int) -> list[Question]:
    """``EACH`` questions of each kind, kinds in turn. ``first`` is the number of the first one in its split."""
    rng = random.Random(f"questions/{seed}/{split}/{first}")
    named = {entity.name: entity for entity in part}
    of_kind = {
        "direct_retrieval": _single(part, rng, names=True),
        "entity_attribute": _single(part, rng, names=False),
        "multi_hop": _two_hops(part, named, rng),
        "compare": _comparisons(part, rng),
    }
    written, seen = list[Question](), set[str]()
    while len(written) < EACH * len(of_kind):
        kind = list(of_kind)[len(written) % len(of_kind)]
        text, answer = next(of_kind[kind])
        if text not in seen:
            seen.add(text)
            written.append(Question(f"fiction/{split}/{first + len(written)}", text, (answer,), "fiction", kind))
    return written


def _single(part: list[Entity], rng: random.Random, names: bool) -> Iterator[tuple[str, str]]:
    """Questions for one fact: with ``names`` its object is an entity, else a number or a word."""
    while True:
        entity = rng.choice(part)
        for relation, value in entity.facts.items():
            if (RELATIONS[relation].object not in ("number", "word")) == names:
                yield rng.choice(RELATIONS[relation].asked).format(s=entity.name), value


def _two_hops(part: list[Entity], named: dict[str, Entity], rng: random.Random) -> Iterator[tuple[str, str]]:
    """Questions for a fact of an entity that another fact names: the evidence is in passages of two titles."""
    while True:
        entity = rng.choice(part)
        bridges = [key for key in entity.facts if RELATIONS[key].noun]
        if not bridges:
            continue
        bridge = rng.choice(bridges)
        second = named[entity.facts[bridge]]
        relation = rng.choice(list(second.facts))
        subject = RELATIONS[bridge].noun.format(s=entity.name)
        question = rng.choice(RELATIONS[relation].asked).format(s=subject).replace("the river the river", "the river")
        yield question, second.facts[relation]


def _comparisons(part: list[Entity], rng: random.Random) -> Iterator[tuple[str, str]]:
    while True:
        question, (relation, smaller) = rng.choice(list(COMPARISONS.items()))
        a, b = rng.sample([entity for entity in part if relation in entity.facts], 2)
        if smaller is None:
            if rng.random() < 0.5:  # about as many "yes" as "no"
                b = rng.choice([e for e in part if e.facts.get(relation) == a.facts[relation] and e != a] or [b])
            answer = "yes" if a.facts[relation] == b.facts[relation] else "no"
        else:
            first, second = int(a.facts[relation]), int(b.facts[relation])
            if first == second:
                continue
            answer = (a if (first < second) == smaller else b).name
        yield question.format(a=a.name, b=b.name), answer
