"""Scripted players of the synthetic catalogue. Their only knowledge is the instruction's text and the pages seen.

``Expert`` searches for all words of the product, opens what fits, chooses each option and buys. ``Novice`` gives the
same well-formed actions, but errs in the procedure with the probabilities of ``Mistakes``: its episodes teach the tiny
shopper to shop *without* skills. Left out: instructions that people wrote.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from sdar_pl.environments.webshop.site import SEPARATOR
from sdar_pl.errors import UserError
from sdar_pl.types import Observation

_INSTRUCTION = re.compile(
    r"i want a (?P<product>.+?)(?: with (?P<options>.+?))?(?:, and price lower than (?P<cap>\S+) dollars)?"
)
_OPTION = re.compile(r"(\S+): (.+)")


@dataclass(frozen=True)
class Aim:
    """An instruction in parts.

    Example:
        ``Aim.parse("i want a slim fit coat with color: red, and price lower than 50.00 dollars") ==
        Aim("slim fit coat", (("color", "red"),), 50.0)``
    """

    product: str
    options: tuple[tuple[str, str], ...] = ()
    cap: float = float("inf")  # dollars

    @classmethod
    def parse(cls, text: str) -> Aim:
        """Parse an instruction of the synthetic catalogue. Raises ``UserError`` for another text."""
        found = _INSTRUCTION.fullmatch(text)
        if not found:
            raise UserError(f"instruction {text!r}: is not one of the synthetic catalogue, such as 'i want a red coat'")
        options = [_OPTION.fullmatch(part) for part in (found["options"] or "").split(", and ") if part]
        if not all(options):
            raise UserError(f"instruction {text!r}: its options are not of the form 'color: red'")
        chosen = tuple((option[1], option[2]) for option in options if option)
        return cls(found["product"], chosen, float(found["cap"] or "inf"))


@dataclass(frozen=True)
class Result:
    """One product on a page of results."""

    asin: str
    name: str
    price: float  # dollars; the upper end of a range

    def fits(self, aim: Aim) -> bool:
        """Whether the name has all words of the aim and the price is below the cap."""
        return set(aim.product.split()) <= set(self.name.lower().split()) and self.price <= aim.cap


def results(page: str) -> list[Result]:
    """The products on a page of results; empty for any other page."""
    parts = page.split(SEPARATOR)
    prices = [k for k, part in enumerate(parts) if part.startswith("$")]
    return [Result(parts[k - 2], parts[k - 1], float(parts[k].rpartition("$")[2])) for k in prices]


class Expert:
    """A player of one instruction: give each observation to ``act``, which returns the next action.

    Args:
        task_text: the instruction.
        rng: draws the mistakes of a ``Novice``; the expert has none.

    Raises ``UserError`` for an instruction that ``Aim.parse`` cannot read.
    """

    def __init__(self, task_text: str, rng: random.Random | None = None) -> None:
        self.aim = Aim.parse(task_text)
        self.rng = rng or random.Random(0)
        self.page = ""
        self.searched = False
        self.pages_left = 2  # of results, before the best of the last page is taken
        self.to_choose = list(self.aim.options)

    def act(self, observation: Observation) -> str:
        """The next action. ``observation`` answers the last one; the first is that of ``reset``."""
        self.page = observation.text
        if not self.searched:
            self.searched = True
            return self._search()
        if found := results(self.page):
            return self._open(found)
        if self.to_choose:
            return self._choose(*self.to_choose.pop(0))
        return _click("Buy Now")

    def _search(self) -> str:
        return f"search[ {self.aim.product} ]"  # with spaces, a word's tokens are those of the page

    def _open(self, found: list[Result]) -> str:
        if fitting := next((one for one in found if one.fits(self.aim)), None):
            return _click(fitting.asin)
        if self.pages_left and "Next >" in self.page:
            self.pages_left -= 1
            return _click("Next >")
        return _click(found[0].asin)

    def _choose(self, name: str, value: str) -> str:
        return _click(value)

    def _offered(self, name: str) -> str:
        """The first value of an option on the product's page."""
        parts = self.page.split(SEPARATOR)
        return parts[parts.index(name) + 1] if name in parts else self.aim.product


def _click(text: str) -> str:
    return f"click[ {text} ]"


@dataclass(frozen=True)
class Mistakes:
    """Probabilities of a ``Novice``'s errors, each drawn once for an instruction."""

    vague: float = 0.3  # search for the last word, the product's noun, alone
    first: float = 0.5  # open the first result, whatever its name and price
    skip_options: float = 0.25  # choose none of the options
    skip_last: float = 0.3  # leave out the last option
    first_value: float = 0.15  # choose the first value that the page offers


class Novice(Expert):
    """An ``Expert`` that makes ``mistakes``. Its actions are always well formed."""

    def __init__(self, task_text: str, rng: random.Random | None = None, mistakes: Mistakes | None = None) -> None:
        super().__init__(task_text, rng)
        m = mistakes or Mistakes()
        chances = (m.vague, m.first, m.skip_options, m.skip_last, m.first_value)
        self.vague, self.first, skip_options, skip_last, self.first_value = (
            self.rng.random() < chance for chance in chances
        )
        self.to_choose = [] if skip_options else self.to_choose[:-1] if skip_last else self.to_choose

    def _search(self) -> str:
        return f"search[ {self.aim.product.split()[-1]} ]" if self.vague else super()._search()

    def _open(self, found: list[Result]) -> str:
        return _click(found[0].asin) if self.first else super()._open(found)

    def _choose(self, name: str, value: str) -> str:
        return _click(self._offered(name) if self.first_value else value)
