"""The website as text: search, results, item and detail pages, and the session that clicks through them.

A page is its visible parts, joined by `` [SEP] ``. Actions are ``search[…]`` and ``click[…]`` in any case; one that the
page does not offer leaves everything as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sdar_pl.environments.base import Session
from sdar_pl.environments.webshop.rewards import reward
from sdar_pl.environments.webshop.store import Store
from sdar_pl.types import Observation

SEPARATOR = " [SEP] "
_ACTION = re.compile(r"(.+)\[(.+)\]")  # the official one: from the last bracket that opens to the last that closes
_DETAILS = ("description", "features", "reviews")
_BACK, _PREVIOUS, _NEXT, _BUY = "Back to Search", "< Prev", "Next >", "Buy Now"


class WebShopSession(Session):
    """One visit.

    Args:
        store: products and search.
        goal: as ``Goals.goal`` makes it.
        hits: most results of a search.
        page_size: results on a page.
        paid: score of the purchase → reward.
    """

    def __init__(
        self, store: Store, goal: dict[str, Any], hits: int, page_size: int, paid: Callable[[float], float]
    ) -> None:
        self.store, self.goal, self.hits, self.page_size, self.paid = store, goal, hits, page_size, paid
        self.page = "search"  # or "results", "item", or one of _DETAILS
        self.results: tuple[str, ...] = ()
        self.number = 1  # of the page of results
        self.asin = ""
        self.options: dict[str, str] = {}
        self.ended: Observation | None = None
        self.parts: dict[str, Any] = {}  # of the reward, once something is bought

    def reset(self) -> Observation:
        return self._seen()

    def step(self, action: str) -> Observation:
        if self.ended is not None:
            return replace(self.ended, reward=0.0)
        parsed = _ACTION.match(action.strip().lower())
        if parsed:
            verb, words = parsed[1], parsed[2].strip()
            if verb == "search" and words:
                self._search(words)
            elif verb == "click" and words in self._clickable() and words != "search":
                self._click(words)
        return self.ended or self._seen()

    def _search(self, words: str) -> None:
        self.results = self.store.search(words, self.hits)
        self.page, self.number = "results", 1

    def _click(self, words: str) -> None:
        if words == _BACK.lower():
            self.page = "search"
        elif words == _NEXT.lower():
            self.number += 1
        elif words == _PREVIOUS.lower():
            if self.page == "results":
                self.number -= 1
            else:
                self.page = "results" if self.page == "item" else "item"
        elif words == _BUY.lower():
            self._buy()
        elif words in _DETAILS:
            self.page = words
        elif self.page == "results":
            self.asin = next(asin for asin in self._shown() if asin.lower() == words)
            self.page, self.options = "item", {}
        else:
            self.options[next(n for n, values in self._offered().items() if words in values)] = words

    def _buy(self) -> None:
        bought = self.store.product(self.asin)
        wanted = self.store.product(self.goal["asin"])
        nouns = {"product_nouns": bought.nouns, "goal_nouns": wanted.nouns}
        score, self.parts = reward(bought.for_reward(), self.goal, bought.price, self.options, **nouns)
        text = SEPARATOR.join(["Thank you for shopping with us!", "Your score (min 0.0, max 1.0)", str(score)])
        self.ended = Observation(text, (), self.paid(score), done=True, success=score >= 1.0, score=score)

    def _shown(self) -> tuple[str, ...]:
        """Asins on the present page of results."""
        return self.results[(self.number - 1) * self.page_size : self.number * self.page_size]

    def _offered(self) -> dict[str, list[str]]:
        return self.store.product(self.asin).options

    def _clickable(self) -> list[str]:
        """Lower-case texts that a click may name, in the order of the page."""
        if self.page == "search":
            return ["search"]
        if self.page == "results":
            turns = [(_PREVIOUS, self.number > 1), (_NEXT, self.number * self.page_size < len(self.results))]
            names = [_BACK, *(name for name, there in turns if there), *self._shown()]
        elif self.page == "item":
            values = [value for offered in self._offered().values() for value in offered]
            names = [_BACK, _PREVIOUS, *values, *_DETAILS, _BUY]
        else:
            names = [_BACK, _PREVIOUS]
        return list(dict.fromkeys(name.lower() for name in names))

    def _seen(self) -> Observation:
        if self.page == "search":
            parts = ["WebShop", *self._head(), "Search"]
            return Observation(SEPARATOR.join(parts), ("search[<your query>]",), score=0.0)
        parts = [*self._head(), _BACK]
        if self.page == "results":
            parts += [f"Page {self.number} (Total results: {len(self.results)})"]
            parts += [name for name in (_PREVIOUS, _NEXT) if name.lower() in self._clickable()]
            for asin in self._shown():
                found = self.store.product(asin)
                parts += [asin, found.name, found.price_tag]
        elif self.page == "item":
            found = self.store.product(self.asin)
            parts += [_PREVIOUS, *(text for name, values in found.options.items() for text in (name, *values))]
            parts += [found.name, f"Price: {found.price_tag}", f"Rating: {found.rating}"]
            parts += [*(name.capitalize() for name in _DETAILS), _BUY]
        else:
            parts += [_PREVIOUS, *self._detail()]
        return Observation(SEPARATOR.join(parts), tuple(f"click[{name}]" for name in self._clickable()), score=0.0)

    def _head(self) -> list[str]:
        return ["Instruction:", self.goal["instruction_text"]]

    def _detail(self) -> list[str]:
        found = self.store.product(self.asin)
        if self.page == "features":
            return [line for line in found.bullets if line]
        return [found.description] if self.page == "description" and found.description else []
