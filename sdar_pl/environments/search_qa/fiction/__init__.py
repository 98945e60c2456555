"""A fictional encyclopaedia with questions about it. Every name, year and fact is invented by a seeded generator.

names.py holds the syllables, facts.py the relations and their wordings, world.py draws the entities, and questions.py
writes questions about them. Fiction, so that no answer can come from a model's memory: only retrieval helps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

from sdar_pl.environments.search_qa.fiction import questions as asking
from sdar_pl.environments.search_qa.fiction.world import Entity, parts, passages
from sdar_pl.environments.search_qa.questions import Question
from sdar_pl.errors import UserError
from sdar_pl.retrieval.base import Passage

#: split → the parts of the world that it asks about
SPLITS = {"train": range(8), "validation": range(8, 10), "test": range(10, 12)}


@dataclass(frozen=True)
class Encyclopaedia:
    """One invented world: about 2,400 passages and 1,920 questions. All passages are searched, whatever the split."""

    seed: int
    parts: list[list[Entity]]
    passages: list[Passage]

    def questions(self, split: str) -> list[Question]:
        """The questions of a split. Raises ``UserError`` for an unknown one."""
        if split not in SPLITS:
            raise UserError(f"data.environment: SearchQA has no split {split!r}; use {', '.join(SPLITS)}")
        asked = list[Question]()
        for number in SPLITS[split]:
            asked += asking.questions(self.parts[number], split, len(asked), self.seed)
        return asked


@lru_cache(maxsize=4)
def encyclopaedia(seed: int = 0) -> Encyclopaedia:
    """The world of a seed, the same at every call."""
    drawn = parts(seed, max(chain(*SPLITS.values())) + 1)
    return Encyclopaedia(seed, drawn, passages(list(chain(*drawn)), seed))
