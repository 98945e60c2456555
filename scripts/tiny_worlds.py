"""Demonstrations of the tiny policies, each from several generated worlds that the packaged benchmarks do not use.

configs/warmup names the classes by their paths, as ``scripts.tiny_worlds.Shops``.
"""

from __future__ import annotations

import random
from functools import cache
from typing import Any, Literal

from sdar_pl.environments.base import Environment
from sdar_pl.environments.household import Household
from sdar_pl.environments.household.expert import Novice
from sdar_pl.environments.household.macros import MacroExpert
from sdar_pl.environments.search_qa import SearchQA
from sdar_pl.environments.search_qa.questions import KINDS
from sdar_pl.environments.webshop import WebShop
from sdar_pl.types import Task
from sdar_pl.warmup import Demonstration, ScriptedPlay

#: number of catalogues and of encyclopaedias that the policies see; the packaged ones have seed 0
WORLDS = 40
# Numbers and trades are copied last, and a model of this size never compares numbers.
SHARES = {"direct_retrieval": 0.2, "entity_attribute": 0.4, "multi_hop": 0.3, "compare": 0.1}
EASY = ("direct_retrieval", "entity_attribute")


class Games(ScriptedPlay):
    """Household games: tiny ones, and later the quickstart's mix with a tenth of small ones.

    Args:
        small_from: number of the iteration, from 0, from which on small games are played.
        options: of ScriptedPlay.
    """

    def __init__(self, small_from: int = 16, **options: Any) -> None:
        super().__init__(**options)
        self.small_from = small_from
        self.games = {size: self.world(size) for size in ("tiny", "small")}

    def world(self, size: Literal["tiny", "small"]) -> Household:
        return Household(size=size)

    def pick(self, rng: random.Random, epoch: int) -> tuple[Environment, Task]:
        size = "small" if rng.random() < (0.1 if epoch >= self.small_from else 0.0) else "tiny"
        tasks = self.games[size].tasks("train")
        return self.games[size], tasks[rng.randrange(len(tasks))]


class MacroNovice(MacroExpert, Novice):
    """A ``Novice`` that calls the helper in a share of the games."""


class MacroHousehold(Household):
    """Games with "fetch", which both players use in half of them."""

    def players(self, task: Task, rng: random.Random) -> tuple[MacroExpert, MacroNovice]:
        return MacroExpert(task.text, rng, share=0.5), MacroNovice(task.text, rng, share=0.5)


class MacroGames(Games):
    """The same games with "fetch", for the tiny household policy to go on from, so that its rollouts hold both ways."""

    def world(self, size: Literal["tiny", "small"]) -> Household:
        return MacroHousehold(size=size, macros=True)


@cache
def shop(seed: int) -> WebShop:
    """A catalogue. Three results a page keep the rows short."""
    return WebShop(think=False, show_admissible=False, page_size=3, hits=9, synthetic_seed=seed)


class Shops(ScriptedPlay):
    """Synthetic catalogues of seeds 1 … 40."""

    def pick(self, rng: random.Random, epoch: int) -> tuple[Environment, Task]:
        world = shop(rng.randint(1, WORLDS))
        tasks = world.tasks("train")
        return world, tasks[rng.randrange(len(tasks))]


@cache
def encyclopaedia(seed: int, easy: bool) -> tuple[SearchQA, dict[str, list[Task]]]:
    """An encyclopaedia and all of its questions by kind."""
    world = SearchQA(seed=seed, topk=1 if easy else 2, kinds=list(EASY) if easy else None)
    tasks = [task for split in ("train", "validation", "test") for task in world.tasks(split)]
    return world, {kind: [task for task in tasks if task.kind == kind] for kind in KINDS}


class Encyclopaedias(ScriptedPlay):
    """Encyclopaedias of seeds 1 … 40. Easy iterations come first: the expert's one search for one fact, one passage
    found, no context; short rows in which a model learns to copy names soon.

    Args:
        easy: number of easy iterations.
        options: of ScriptedPlay.
    """

    def __init__(self, easy: int = 8, **options: Any) -> None:
        super().__init__(**options)
        self.easy = easy

    def pick(self, rng: random.Random, epoch: int) -> tuple[Environment, Task]:
        easy = epoch < self.easy
        world, tasks = encyclopaedia(rng.randint(1, WORLDS), easy)
        shares = {kind: share for kind, share in SHARES.items() if not easy or kind in EASY}
        (kind,) = rng.choices(list(shares), list(shares.values()))
        return world, rng.choice(tasks[kind])

    def play(self, rng: random.Random, epoch: int) -> Demonstration:
        if epoch >= self.easy:
            return super().play(rng, epoch)
        return self.played(*self.pick(rng, epoch), rng, 0, "")
