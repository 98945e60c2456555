"""The invented world: entities with their facts, and the passages that tell them.

A world consists of parts. Facts relate entities of one part only, so that splits made of parts share no entity.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from sdar_pl.environments.search_qa.fiction.facts import RELATIONS
from sdar_pl.environments.search_qa.fiction.names import FISH, PRODUCTS, TRADES, Names
from sdar_pl.retrieval.base import Passage

#: entities of a part by type
SIZES = {"river": 8, "town": 16, "person": 40, "company": 12, "work": 24}
_WORDS = {"trade": TRADES, "product": PRODUCTS, "fish": FISH}
#: first sentences' subject, and that of the later ones
_PRONOUNS = {
    "person": "This person",
    "town": "The town",
    "river": "The river",
    "company": "The firm",
    "work": "The book",
}


@dataclass(frozen=True)
class Entity:
    """A person, town, river, company or work.

    Example:
        ``Entity("Mira Tolson", "person", {"home": "Varnholm", "trade": "potter", "birth": "47"})``
    """

    name: str
    kind: str
    facts: dict[str, str]


def parts(seed: int, number: int) -> list[list[Entity]]:
    """``number`` parts of a world. No name occurs twice in it. Same seed: same world."""
    rng = random.Random(f"fiction/{seed}")
    names = Names(rng)
    return [_part(rng, names) for _ in range(number)]


def _part(rng: random.Random, names: Names) -> list[Entity]:
    known: dict[str, list[str]] = {}
    entities = list[Entity]()
    for kind, size in SIZES.items():
        known[kind] = [names.next(kind) for _ in range(size)]
        for name in known[kind]:
            facts = {key: _object(key, known, rng) for key, relation in RELATIONS.items() if relation.subject == kind}
            entities.append(Entity(name, kind, facts))
    return entities


def _object(relation: str, known: dict[str, list[str]], rng: random.Random) -> str:
    kind = RELATIONS[relation].object
    if kind == "number":
        return str(rng.randint(10, 99))
    return rng.choice(_WORDS[relation] if kind == "word" else known[kind])


def passages(entities: list[Entity], seed: int) -> list[Passage]:
    """Two passages about each entity, each with a part of its facts, in varied wording."""
    rng = random.Random(f"wording/{seed}")
    written = list[Passage]()
    for entity in entities:
        facts = list(entity.facts.items())
        rng.shuffle(facts)
        half = (len(facts) + 1) // 2
        for told in (facts[:half], facts[half:]):
            predicates = [rng.choice(RELATIONS[relation].wordings).format(o=value) for relation, value in told]
            text = f"{entity.name} {predicates[0]}."
            for predicate in predicates[1:]:
                text += f" {_PRONOUNS[entity.kind]} {predicate}."
            written.append(Passage(f"fiction-{len(written)}", entity.name, text))
    return written
