"""Recipes of the tiny policies (see _imitation.py): household, webshop, search_qa. Only generated worlds, whose seeds
the packaged benchmarks do not use."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from functools import partial

from _imitation import Recipe

from sdar_pl.environments.base import Environment
from sdar_pl.environments.household import Household
from sdar_pl.environments.household import expert as household
from sdar_pl.environments.household.game import KINDS
from sdar_pl.environments.household.macros import MacroExpert
from sdar_pl.environments.search_qa import SearchQA
from sdar_pl.environments.search_qa import expert as search_qa
from sdar_pl.environments.search_qa.fiction import names
from sdar_pl.environments.search_qa.questions import KINDS as QUESTIONS
from sdar_pl.environments.webshop import WebShop
from sdar_pl.environments.webshop import expert as webshop
from sdar_pl.environments.webshop.goals import KINDS as GOODS
from sdar_pl.environments.webshop.synthetic import catalogue
from sdar_pl.skills.library import SkillLibrary
from sdar_pl.types import Task

_ACTION = ["<action>", "</action>", "<think>", "</think>"]
# A product's code, "x-large" and the separator of a page are words, so that the policy copies them as one token.
_PAGE_WORDS = r" ?\[SEP\]| ?[\p{L}\p{N}]+(?:-\p{L}+)*| ?[^\s\p{L}\p{N}]+|\s+"
# Numbers and trades are copied last, and a model of this size never compares numbers.
_QUESTION_SHARES = {"direct_retrieval": 0.2, "entity_attribute": 0.4, "multi_hop": 0.3, "compare": 0.1}
_EASY = ("direct_retrieval", "entity_attribute")
#: number of catalogues and of encyclopaedias that the policies see
_WORLDS = 40


class HouseholdRecipe(Recipe):
    """Household games of the split "train". Short games first; the last two thirds are the quickstart's mix."""

    def __init__(self) -> None:
        super().__init__(
            library="household", tokens=_ACTION, vocabulary=1536, turns=12, kinds=KINDS,
            expert=household.Expert, novice=household.Novice, take_over=6, skilled=0.45, plain=0.43, warmup=100,
        )  # fmt: skip
        self.games = {size: Household(size=size) for size in ("tiny", "small")}
        self.splits = {size: game.tasks("train") for size, game in self.games.items()}

    def corpus(self) -> Iterator[str]:
        for skill in SkillLibrary.builtin(self.library).skills:
            yield from [skill.text] * 20
        for size, game in self.games.items():
            for n in range(1500):
                task = self.splits[size][n]
                episode = self.play(game, task, random.Random(n), expert_from=0)
                yield game.opening(task, episode.first)
                for turn in episode.turns:
                    yield turn.text
                    yield game.reply(turn.observation)

    def pick(self, rng: random.Random, progress: float, easy: bool) -> tuple[Environment, Task]:
        size = "small" if rng.random() < (0.1 if progress >= 1 / 3 else 0.0) else "tiny"
        tasks = self.splits[size]
        return self.games[size], tasks[rng.randrange(len(tasks))]


class MacroNovice(MacroExpert, household.Novice):
    """A ``Novice`` that calls the helper in a share of the games."""


class HouseholdMacrosRecipe(HouseholdRecipe):
    """The same games with "fetch", which every player uses in half of them: for the tiny household policy to go on
    from (``--start``), so that its rollouts hold both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.expert, self.novice = partial(MacroExpert, share=0.5), partial(MacroNovice, share=0.5)
        self.games = {size: Household(size=size, macros=True) for size in ("tiny", "small")}
        self.steps = 200


class WebShopRecipe(Recipe):
    """Synthetic catalogues of seeds 1 … 40; the packaged one has seed 0. Three results a page keep the rows short."""

    def __init__(self) -> None:
        super().__init__(
            library="synthetic_shop", tokens=_ACTION, vocabulary=2816, words=_PAGE_WORDS, turns=8, kinds=GOODS,
            expert=webshop.Expert, novice=webshop.Novice, steps=1600,
        )  # fmt: skip
        self.worlds: dict[int, WebShop] = {}

    def world(self, seed: int) -> WebShop:
        """A catalogue, made once."""
        if seed not in self.worlds:
            self.worlds[seed] = WebShop(think=False, show_admissible=False, page_size=3, hits=9, synthetic_seed=seed)
        return self.worlds[seed]

    def corpus(self) -> Iterator[str]:
        for skill in SkillLibrary.builtin(self.library).skills:
            yield from [f"{skill.name}: {skill.text}"] * 500
        yield from [f" {made.record['asin']}" for made in catalogue() for _ in range(100)]
        for seed in (1, 2, 3):
            world = self.world(seed)
            for task in world.tasks("train")[:1200]:
                episode = self.play(world, task, random.Random(task.id), expert_from=0)
                yield world.opening(task, episode.first)
                for turn in episode.turns:
                    yield turn.text
                    yield world.reply(turn.observation)

    def pick(self, rng: random.Random, progress: float, easy: bool) -> tuple[Environment, Task]:
        world = self.world(rng.randint(1, _WORLDS))
        tasks = world.tasks("train")
        return world, tasks[rng.randrange(len(tasks))]


class SearchQARecipe(Recipe):
    """Encyclopaedias of seeds 1 … 40; the packaged one has seed 0. Easy steps: one search for one fact with one
    passage, short rows in which a model learns to copy names soon."""

    def __init__(self) -> None:
        tags = [f"<{end}{tag}>" for tag in ("search", "answer", "information", "think") for end in ("", "/")]
        super().__init__(
            library="fiction", tokens=tags, vocabulary=1600, turns=4, kinds=QUESTIONS,
            expert=search_qa.Expert, novice=search_qa.Novice, easy=400, steps=3000,
        )  # fmt: skip
        self.worlds: dict[tuple[int, bool], SearchQA] = {}
        self.tasks: dict[tuple[int, bool], dict[str, list[Task]]] = {}

    def written(self, action: str) -> str:
        return action

    def corpus(self) -> Iterator[str]:
        """All wording, and syllables instead of names, so that every name has the same few tokens, whatever its
        world. A digit before a syllable keeps it apart from the word before it."""
        for skill in SkillLibrary.builtin(self.library):
            yield from [f"{skill.name}: {skill.text}"] * 30
        yield from ["Useful skills for this task:"] * 30
        starts = [*names._FIRST, *names._GIVEN, *names._ADJECTIVES, *names._NOUNS]
        ends = [end for kind in names._LAST.values() for end in kind]
        for _ in range(200):
            yield f" {' '.join(starts)}"
            yield "1".join(["", *ends])
            yield f" {' '.join(map(str, range(10, 100)))}"
            yield f" {' '.join([*names.TRADES, *names.PRODUCTS, *names.FISH])} unknown yes no"
        world = SearchQA(seed=1000, topk=2)
        for task in world.tasks("train")[:600]:
            episode = self.play(world, task, random.Random(1), expert_from=0)
            for text in [
                world.opening(task, episode.first),
                *(world.reply(turn.observation) for turn in episode.turns),
            ]:
                yield re.sub(r"(?<!^)(?<!The )(?<!\. )\b[A-Z]\w+", "", text)

    def pick(self, rng: random.Random, progress: float, easy: bool) -> tuple[Environment, Task]:
        seed = rng.randint(1, _WORLDS)
        if (seed, easy) not in self.worlds:
            kinds = list(_EASY) if easy else None
            self.worlds[seed, easy] = world = SearchQA(seed=seed, topk=1 if easy else 2, kinds=kinds)
            tasks = [task for split in ("train", "validation", "test") for task in world.tasks(split)]
            self.tasks[seed, easy] = {kind: [task for task in tasks if task.kind == kind] for kind in QUESTIONS}
        shares = {kind: share for kind, share in _QUESTION_SHARES.items() if not easy or kind in _EASY}
        (kind,) = rng.choices(list(shares), list(shares.values()))
        return self.worlds[seed, easy], rng.choice(self.tasks[seed, easy][kind])


RECIPES: dict[str, Callable[[], Recipe]] = {
    "household": HouseholdRecipe,
    "household_macros": HouseholdMacrosRecipe,
    "webshop": WebShopRecipe,
    "search_qa": SearchQARecipe,
}
