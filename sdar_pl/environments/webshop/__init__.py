"""WebShop (Yao et al. 2022, 2207.01206): buy the product that an instruction describes, on a website of text pages.

Pages, actions and rewards are the official ones; Java, Flask and spaCy are not needed. Without the official files a
synthetic catalogue plays (synthetic.py). docs/webshop.md has the files and all that differs.
"""

from __future__ import annotations

import os
import random
import warnings
from pathlib import Path
from threading import Lock
from typing import Literal

from sdar_pl.checks import at_least, one_of
from sdar_pl.environments.webshop.expert import Expert, Novice
from sdar_pl.environments.webshop.goals import KINDS, SHUFFLE, SMALL_SPLITS, SPLITS, Goals, Tasks, shuffled
from sdar_pl.environments.webshop.ingest import embedded, opened
from sdar_pl.environments.webshop.products import Tagger
from sdar_pl.environments.webshop.prompts import WebShopPrompts, parse_action
from sdar_pl.environments.webshop.rewards import matches, reward
from sdar_pl.environments.webshop.site import WebShopSession
from sdar_pl.environments.webshop.store import Store
from sdar_pl.environments.webshop.synthetic import NUMBER
from sdar_pl.errors import UserError
from sdar_pl.types import Task

__all__ = ["WebShop", "parse_action", "reward"]

SYNTHETIC = "synthetic"
_NAMES = {
    "products": ("items_shuffle_1000.json", "items_shuffle.json"),
    "attributes": ("items_ins_v2_1000.json", "items_ins_v2.json"),
    "human_goals": ("items_human_ins.json",),
}


class WebShop(WebShopPrompts):
    """Goals of WebShop. Splits: test (0–499 of the shuffled goals), validation (500–1499), train (the others).

    Args:
        products: items_shuffle*.json; "synthetic" for the embedded catalogue; null for the folder ``$WEBSHOP_DATA``,
            from which the other two files then come as well.
        attributes: items_ins_v2*.json.
        human_goals: items_human_ins.json.
        tagger: import path of a function that finds the nouns of a product's name when the files are read
            (``str`` → list of ``str``); null means the heuristic of rewards.py.
        store: folder in which the files are kept in a form that opens at once; null means one in ~/.cache.
        goals: "human", "synthetic" or null: human where there are any.
        synthetic_products: number of products of the embedded catalogue (≥ 1).
        synthetic_seed: of the embedded catalogue.
        price_seed: draws the goals' price caps.
        splits: "disjoint", or "small" for the recipe of the paper: test 0–499, train all others, no validation.
        leaking_shuffle: shuffle the goals on each rank by a seed of its own, as the official code does in each worker:
            one rank's test goals are then another's training goals. Only to reproduce published figures.
        think: ask for reasoning in <think> tags before the action, and count an output without them as invalid.
        show_admissible: list the admissible actions with every page.
        hits: most results of a search (≥ 1).
        page_size: results on a page (≥ 1).
        reward: "success": ``success_reward`` for a purchase of score 1, otherwise 0; "score": ``success_reward`` times
            the score.
        success_reward: see ``reward``.

    Raises ``UserError`` for missing or bad files, missing packages and a split without goals.
    """

    kinds: tuple[str, ...] = KINDS

    def __init__(
        self,
        products: str | None = SYNTHETIC,
        attributes: str | None = None,
        human_goals: str | None = None,
        tagger: Tagger | None = None,
        store: str | None = None,
        goals: Literal["human", "synthetic"] | None = None,
        synthetic_products: int = NUMBER,
        synthetic_seed: int = 0,
        price_seed: int = 0,
        splits: Literal["disjoint", "small"] = "disjoint",
        leaking_shuffle: bool = False,
        think: bool = True,
        show_admissible: bool = True,
        hits: int = 50,
        page_size: int = 10,
        reward: Literal["success", "score"] = "success",
        success_reward: float = 10.0,
    ) -> None:
        super().__init__(think=think, show_admissible=show_admissible)
        key = "data.environment."
        self.hits, self.page_size = at_least(f"{key}hits", hits, 1), at_least(f"{key}page_size", page_size, 1)
        self.rewarded = one_of(f"{key}reward", reward, ("success", "score"))
        self.success_reward = at_least(f"{key}success_reward", success_reward, 0)
        self._synthetic = at_least(f"{key}synthetic_products", synthetic_products, 1), synthetic_seed
        self._splits = SPLITS if one_of(f"{key}splits", splits, ("disjoint", "small")) == "disjoint" else SMALL_SPLITS
        self.store = self._open(products, attributes, human_goals, store, tagger)
        self.goals = Goals(self.store, price_seed)
        human = self.store.number_of_goals("human")
        source = one_of(f"{key}goals", goals or ("human" if human else "synthetic"), ("human", "synthetic"))
        self._order = shuffled(self.store.goals(source), SHUFFLE + self._worker(leaking_shuffle))
        self._tasks: dict[str, Tasks] = {}
        self._lock = Lock()

    def tasks(self, split: str) -> Tasks:
        """Raises ``UserError`` for an unknown split and for a split without goals."""
        if split not in self._splits:
            raise UserError(f"data.environment: WebShop has no split {split!r}; use {', '.join(self._splits)}")
        with self._lock:
            if split not in self._tasks:
                first, last = self._splits[split]
                self._tasks[split] = Tasks(split, self.goals, tuple(self._order[first:last]))
        if not len(self._tasks[split]):
            raise UserError(
                f"data.environment.products: {len(self._order)} goals; the split {split!r} begins at goal "
                f"{self._splits[split][0]}; use files with more goals"
            )
        return self._tasks[split]

    def session(self, task: Task) -> WebShopSession:
        return WebShopSession(self.store, self.goals.goal(task.data), self.hits, self.page_size, self._paid)

    def players(self, task: Task, rng: random.Random) -> tuple[Expert, Novice]:
        return Expert(task.text, rng), Novice(task.text, rng)

    def expert_plan(self, task: Task) -> tuple[str, ...]:
        """Search, open, choose and buy the goal's own product: a reference solution.

        Empty where no query finds the product, or where even this purchase has a score below 1.
        """
        goal = self.goals.goal(task.data)
        bought = self.store.product(goal["asin"])
        values = [value for offered in bought.options.values() for value in offered]
        wanted = [next((v for v in values if matches(v, text)), "") for text in goal["goal_options"]]
        for query in (f"{' '.join(goal['attributes'])} {goal['query']}", bought.name, bought.text):
            query = query.replace("[", " ").replace("]", " ").lower()
            found = self.store.search(query.strip(), self.hits)
            if bought.asin in found:
                pages = found.index(bought.asin) // self.page_size
                clicks = [*["next >"] * pages, bought.asin.lower(), *filter(None, wanted), "buy now"]
                plan = (f"search[{query.strip()}]", *(f"click[{text}]" for text in clicks))
                return plan if self._succeeds(task, plan) else ()
        return ()

    @property
    def skipped(self) -> dict[str, int]:
        """Reason → number of records and goals of the files that were left out."""
        return self.store.skipped

    def _succeeds(self, task: Task, plan: tuple[str, ...]) -> bool:
        session = self.session(task)
        seen = session.reset()
        for action in plan:
            seen = session.step(action)
        return seen.success

    def _paid(self, score: float) -> float:
        return self.success_reward * (score if self.rewarded == "score" else score >= 1.0)

    def _worker(self, leaking: bool) -> int:
        if not leaking:
            return 0
        warnings.warn("data.environment.leaking_shuffle: test goals of one rank are trained on by others", stacklevel=4)
        return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0)

    def _open(
        self,
        products: str | None,
        attributes: str | None,
        human_goals: str | None,
        store: str | None,
        tagger: Tagger | None,
    ) -> Store:
        if products == SYNTHETIC:
            return embedded(*self._synthetic)
        paths = {"products": products, "attributes": attributes, "human_goals": human_goals}
        found = {name: Path(path).expanduser() if path else None for name, path in paths.items()}
        if products is None:
            data = os.environ.get("WEBSHOP_DATA")
            if not data:
                raise UserError(
                    "data.environment.products: is null and $WEBSHOP_DATA is not set; set one of them, or use synthetic"
                )
            folder = Path(data).expanduser()
            for name, choices in _NAMES.items():
                there = next((folder / choice for choice in choices if (folder / choice).is_file()), None)
                found[name] = found[name] or there or (folder / choices[0] if name == "products" else None)
        assert found["products"] is not None
        place = Path(store).expanduser() if store else None
        opened_store = opened(found["products"], found["attributes"], found["human_goals"], place, tagger)
        if opened_store.skipped:
            reasons = ", ".join(f"{count} {reason}" for reason, count in opened_store.skipped.items())
            warnings.warn(f"data.environment: left out of {found['products']}: {reasons}", stacklevel=4)
        return opened_store
