"""Invented names: two syllables of short lists, so that a small tokenizer knows every part and no name."""

from __future__ import annotations

import random
from collections.abc import Iterator

# fmt: off
_FIRST = (
    "Al", "Bar", "Bel", "Bren", "Cal", "Car", "Cor", "Dal", "Dun", "El", "Fal", "Fen", "Gar", "Gol", "Hal", "Har",
    "Hol", "Ing", "Kel", "Kor", "Lan", "Lor", "Mal", "Mar", "Mel", "Mor", "Nor", "Ol", "Or", "Pel", "Per", "Ral",
    "Ros", "Sal", "Sel", "Sor", "Tal", "Tar", "Tor", "Ul", "Val", "Var", "Vel", "Vin", "Wal", "Wel", "Wil", "Yor",
)
_LAST = {
    "person": ("bert", "dik", "gren", "ker", "land", "lund", "man", "mark", "quist", "rik", "sen", "ski", "son", "vik"),
    "town": ("bridge", "by", "dale", "ford", "haven", "holm", "minster", "moor", "stead", "ton", "wick"),
    "river": ("ara", "enna", "esk", "ine", "ola", "une"),
    "company": ("co", "dex", "ium", "ix", "onic", "tex"),
}
_GIVEN = (
    "Ada", "Anton", "Astrid", "Bruno", "Clara", "Dora", "Edgar", "Emil", "Frieda", "Greta", "Hugo", "Ida", "Ivan",
    "Jonas", "Karla", "Leo", "Lena", "Magnus", "Mira", "Nils", "Nora", "Olga", "Oskar", "Paula", "Petra", "Rosa",
    "Rudi", "Sigrid", "Stella", "Theo", "Thea", "Viktor",
)
_ADJECTIVES = (
    "Amber", "Blue", "Broken", "Copper", "Distant", "Empty", "First", "Frozen", "Golden", "Green", "Hidden", "Iron",
    "Last", "Lonely", "Lost", "Narrow", "Paper", "Quiet", "Red", "Secret", "Silent", "Silver", "Sleeping", "White",
)
_NOUNS = (
    "Anchor", "Bell", "Clock", "Crown", "Door", "Falcon", "Feather", "Garden", "Harbour", "Island", "Key", "Lantern",
    "Letter", "Meadow", "Mirror", "Mountain", "Orchard", "Palace", "Road", "Shadow", "Star", "Tower", "Window",
    "Winter",
)
TRADES = (
    "baker", "carpenter", "doctor", "farmer", "fisher", "gardener", "judge", "miller", "painter", "potter", "sailor",
    "singer", "smith", "tailor", "teacher", "weaver",
)
PRODUCTS = (
    "bells", "boats", "bricks", "candles", "carpets", "clocks", "glass", "hats", "lamps", "paper", "pianos", "ropes",
    "shoes", "soap", "tea", "wagons",
)
FISH = ("carp", "crayfish", "eels", "herring", "perch", "pike", "salmon", "trout")
# fmt: on


class Names:
    """Names in random order, none twice. An iterator for each type of entity."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self._names = {kind: self._all(kind) for kind in (*_LAST, "work")}

    def next(self, kind: str) -> str:
        """The next name of a "person", "town", "river", "company" or "work"."""
        return next(self._names[kind])

    def _all(self, kind: str) -> Iterator[str]:
        if kind == "work":
            names = [f"The {adjective} {noun}" for adjective in _ADJECTIVES for noun in _NOUNS]
        else:
            names = [first + last for first in _FIRST for last in _LAST[kind]]
        self.rng.shuffle(names)
        for name in names:
            yield f"{self.rng.choice(_GIVEN)} {name}" if kind == "person" else name
