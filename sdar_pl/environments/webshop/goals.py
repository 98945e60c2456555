"""Goals and their splits.

Everybody shares one fixed shuffle: test 0–499, validation 500–1499, train from 1500 on. The official code shuffles in
each worker by the worker's own seed, so that one worker's test goals are another's training goals; ``Shuffle`` can do
that, too, to reproduce published figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from random import Random
from typing import Any, overload

from sdar_pl.environments.webshop.products import Product, clean
from sdar_pl.environments.webshop.rewards import NO_CAP
from sdar_pl.environments.webshop.store import Store
from sdar_pl.types import Task

#: seed of the shuffle that everybody shares
SHUFFLE = 233
#: split → the places of its goals in the shuffled order
SPLITS = {"test": (0, 500), "validation": (500, 1500), "train": (1500, None)}
#: the same of the recipe of the paper, which validates on the test goals
SMALL_SPLITS = {"test": (0, 500), "train": (500, None)}

#: the kinds of task: those of the paper's skills
KINDS = ("apparel", "footwear", "accessories", "beauty_health", "electronics", "home_decor", "other")
_KIND_OF_CATEGORY = {"beauty": "beauty_health", "electronics": "electronics", "garden": "home_decor"}
_FOOTWEAR = ("Shoes", "Boots", "Sandals", "Slippers", "Sneakers")
_ACCESSORIES = ("Jewelry", "Watches", "Accessories", "Handbags", "Luggage", "Belts")
_CAPS = [10.0 * k for k in range(1, 100)]
#: most synthetic goals of one product
MOST_GOALS = 64


def human_goals(written: Any) -> Iterator[dict[str, Any]]:
    """The goals of a product in items_human_ins.json."""
    for entry in written if isinstance(written, list) else ():
        if isinstance(entry, dict) and entry.get("instruction"):
            options = entry.get("instruction_options") or []
            options = list(options.values()) if isinstance(options, dict) else list(options)
            yield _goal(entry["instruction"], entry.get("instruction_attributes"), [clean(text) for text in options])


def synthetic_goals(found: Product, note: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A product's instruction in items_ins*.json, with every choice of its options (at most ``MOST_GOALS``)."""
    if not note.get("instruction"):
        return
    names = sorted(found.options)
    for values in islice(product(*(found.options[name] for name in names)), MOST_GOALS):
        chosen = ", and ".join(f"{name}: {value}" for name, value in zip(names, values, strict=True))
        text = f"{clean(note['instruction']).strip('.')}{' with ' + chosen if chosen else ''}"
        yield _goal(text, note.get("instruction_attributes"), list(values))


def _goal(instruction: str, attributes: Any, options: list[str]) -> dict[str, Any]:
    attributes = [clean(text) for text in attributes or () if clean(text)]
    return {"instruction": clean(instruction).strip("."), "attributes": attributes, "options": options}


@dataclass(frozen=True)
class Goals:
    """The goals of a store, put into words with price caps. ``seed`` draws the caps.

    A cap is one of the next four multiples of ten dollars above the product's price, never the lowest of them.
    """

    store: Store
    seed: int = 0

    def goal(self, number: int) -> dict[str, Any]:
        """The argument ``goal`` of ``rewards.reward``, with asin and instruction_text.

        Raises ``KeyError`` for an unknown number.
        """
        known = self.store.goal(number)
        bought = self.store.product(known["asin"])
        caps = [cap for cap in _CAPS if cap > bought.price][:4]
        cap, text = NO_CAP, known["instruction"]
        if len(caps) >= 2:
            cap = sorted(Random(f"{self.seed}/{number}").sample(caps, 2))[1]
            text = f"{text}, and price lower than {cap:.2f} dollars"
        return {
            **{"asin": bought.asin, "name": bought.name, "query": bought.query, "category": bought.category},
            **{"product_category": bought.product_category, "instruction_text": text},
            **{"attributes": known["attributes"], "goal_options": known["options"], "price_upper": cap},
        }

    def kind(self, goal: dict[str, Any]) -> str:
        """The kind of a goal, by its product's category."""
        if goal["category"] != "fashion":
            return _KIND_OF_CATEGORY.get(goal["category"], "other")
        below = goal["product_category"].partition("›")[2]  # the first level is "Clothing, Shoes & Jewelry" for all
        for kind, words in (("footwear", _FOOTWEAR), ("accessories", _ACCESSORIES)):
            if any(word in below for word in words):
                return kind
        return "apparel"


@dataclass(frozen=True)
class Tasks(Sequence[Task]):
    """The tasks of one split, read from the store on access.

    Args:
        split: its name, the first part of the ids.
        goals: of the store.
        numbers: of the split's goals, in order.
    """

    split: str
    goals: Goals
    numbers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> list[Task]: ...
    def __getitem__(self, index: int | slice) -> Task | list[Task]:
        if isinstance(index, slice):
            return [self._task(number) for number in self.numbers[index]]
        return self._task(self.numbers[index])

    def _task(self, number: int) -> Task:
        goal = self.goals.goal(number)
        return Task(f"webshop/{self.split}/{number}", self.goals.kind(goal), goal["instruction_text"], number)


def shuffled(numbers: Sequence[int], seed: int) -> list[int]:
    """A permutation of ``numbers`` that depends on ``seed`` alone."""
    order = list(numbers)
    Random(seed).shuffle(order)
    return order
