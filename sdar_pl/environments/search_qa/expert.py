"""Scripted players of the fiction. Their only knowledge is the question's text and the passages found.

``Expert`` searches for every name that the question needs, one at a time, and answers with what the passages state.
``Novice`` gives the same well-formed searches and answers, but errs in the procedure with the probabilities of
``Mistakes``. Its episodes teach the tiny researcher to search *without* skills. Left out: real questions.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from sdar_pl.environments.search_qa.fiction.facts import COMPARISONS, RELATIONS, read
from sdar_pl.errors import UserError
from sdar_pl.types import Observation

_DOC = re.compile(r"^Doc \d+\(Title: (.*?)\) (.*)$", re.MULTILINE)
#: what an Expert says where no passage states the fact
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Aim:
    """A question in parts. ``bridge`` leads from ``subject`` to the entity that ``relation`` is asked of; "" for none.

    Example:
        ``Aim.parse("What is the trade of the author of The Key?") == Aim("trade", "The Key", bridge="author")``
    """

    relation: str
    subject: str
    bridge: str = ""
    other: str = ""  # the second subject of a comparison
    smaller: bool | None = None  # whether the smaller number wins; None: whether the two are equal

    @classmethod
    def parse(cls, text: str) -> Aim:
        """Parse any question of the fiction. Raises ``UserError`` for another text."""
        for wording, (relation, smaller) in COMPARISONS.items():
            if match := _matched(wording, text):
                return cls(relation, match["a"], other=match["b"], smaller=smaller)
        for relation, about in RELATIONS.items():
            for asked in about.asked:
                if match := _matched(asked.replace("the river {s}", "{s}"), text):
                    for bridge, first in RELATIONS.items():
                        if first.noun and first.object == about.subject and (inner := _matched(first.noun, match["s"])):
                            return cls(relation, inner["s"], bridge)
                if match := _matched(asked, text):
                    return cls(relation, match["s"])
        raise UserError(f"question {text!r}: follows none of the fiction's wordings, such as 'Who founded Tarnix?'")


def _matched(wording: str, text: str) -> re.Match[str] | None:
    pattern = re.escape(wording)
    for name in ("s", "a", "b"):
        pattern = pattern.replace(rf"\{{{name}\}}", f"(?P<{name}>.+)")
    return re.fullmatch(pattern, text)


class Expert:
    """A player of one question: give each observation to ``act``, which returns the next action.

    Args:
        task_text: the question.
        rng: breaks ties; the expert has none.

    Raises ``UserError`` for a question that ``Aim.parse`` cannot read.
    """

    def __init__(self, task_text: str, rng: random.Random | None = None) -> None:
        self.aim = Aim.parse(task_text)
        self.rng = rng or random.Random(0)
        self.facts: dict[tuple[str, str], str] = {}  # (relation, name) → object, as read in passages
        self.docs: list[tuple[str, str]] = []  # (title, text) of the last search
        self.searched: list[str] = []

    def act(self, observation: Observation) -> str:
        """The next action. ``observation`` answers the last one; the first is that of ``reset``."""
        self.docs = _DOC.findall(observation.text)
        for title, text in self.docs:
            for relation in RELATIONS:
                if found := read(relation, title, title, text):
                    self.facts[relation, title] = found
        return self._decide()

    def _decide(self) -> str:
        aim = self.aim
        if aim.other:
            return self._compare()
        subject = aim.subject
        if aim.bridge:
            if (aim.bridge, subject) not in self.facts:
                return self._find(subject)
            subject = self.facts[aim.bridge, subject]
        if (aim.relation, subject) not in self.facts:
            return self._find(subject)
        return self._answer(self.facts[aim.relation, subject])

    def _compare(self) -> str:
        aim = self.aim
        for name in (aim.subject, aim.other):
            if (aim.relation, name) not in self.facts:
                return self._find(name)
        first, second = self.facts[aim.relation, aim.subject], self.facts[aim.relation, aim.other]
        if aim.smaller is None:
            return self._answer("yes" if first == second else "no")
        return self._answer(aim.subject if (int(first) < int(second)) == aim.smaller else aim.other)

    def _find(self, name: str) -> str:
        """Search for a name; the second search without success is the last."""
        if self.searched.count(name):
            return self._answer(UNKNOWN)
        return self._search(name)

    def _search(self, words: str) -> str:
        self.searched.append(words)
        return f"<search> {words} </search>"  # with spaces, a name's tokens are those of the passage

    def _answer(self, words: str) -> str:
        return f"<answer> {words} </answer>"


@dataclass(frozen=True)
class Mistakes:
    """Probabilities of a ``Novice``'s errors, each drawn once for a question."""

    guess: float = 0.2  # answer without a search
    vague: float = 0.25  # search for the question's words without the name, and answer from what is found
    title: float = 0.2  # answer with the first passage's title
    stop_early: float = 0.65  # of a two-hop question or a comparison: stop after the first search


class Novice(Expert):
    """An ``Expert`` that makes ``mistakes``. Its actions are always well formed."""

    def __init__(self, task_text: str, rng: random.Random | None = None, mistakes: Mistakes | None = None) -> None:
        super().__init__(task_text, rng)
        m = mistakes or Mistakes()
        self.guess, self.vague, self.title, self.stop_early = (
            self.rng.random() < chance for chance in (m.guess, m.vague, m.title, m.stop_early)
        )

    def _decide(self) -> str:
        aim = self.aim
        if self.guess:
            return self._answer(self._plausible())
        if not self.searched:
            if self.vague:
                wording = RELATIONS[aim.bridge or aim.relation].wordings[0]
                return self._search(wording.replace(" {o}", ""))
            return super()._decide()
        if self.title or self.vague:
            return self._answer(self.docs[0][0] if self.docs else UNKNOWN)
        if self.stop_early and aim.bridge:
            return self._answer(self.facts.get((aim.bridge, aim.subject), UNKNOWN))
        if self.stop_early and aim.other:
            return self._answer(self._plausible())
        return super()._decide()

    def _plausible(self) -> str:
        aim = self.aim
        if aim.other:
            return self.rng.choice(["yes", "no"] if aim.smaller is None else [aim.subject, aim.other])
        return aim.subject
