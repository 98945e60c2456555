"""Which skills go with a task. A retriever reads the task's explicit kind or its goal, never a prompt.

``ByKind`` and ``All`` choose by metadata, ``Keyword`` and ``BM25`` by the goal's words, ``Random`` by chance,
``UCB`` by what has succeeded. Where a number ``n`` is asked for, it counts the special skills: a library's
general ones are always given, first. Left out: embeddings (goals are short), and writing skills.
"""

from __future__ import annotations

import math
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from sdar_pl.errors import UserError
from sdar_pl.skills.library import SkillLibrary
from sdar_pl.types import Skill, Task

#: words that say nothing about what a goal asks for
# fmt: off
_STOP = frozenset([
    "a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "in", "into", "is", "it",
    "not", "of", "on", "one", "or", "some", "that", "the", "them", "then", "to", "with",
])
# fmt: on


def words(text: str) -> list[str]:
    """The whole words of a text in lower case, without those that say nothing."""
    return [word for word in re.findall(r"[a-z]+", text.lower()) if word not in _STOP]


def _document(skill: Skill) -> list[str]:
    """What a goal is compared with: what a skill is for. Its text names places and objects of other goals too."""
    return words(f"{skill.name} {skill.description}")


class Retriever(ABC):
    """Chooses skills from a library; may learn from how the episodes that they were given to ended."""

    @abstractmethod
    def retrieve(self, task: Task, library: SkillLibrary) -> list[Skill]:
        """The skills for this task, general ones first; may be empty."""

    def update(self, task: Task, skills: Sequence[Skill], success: bool) -> None:  # noqa: B027 - most do not learn
        """Hear how one episode with these skills ended."""

    def state_dict(self) -> dict[str, Any]:
        """What has been learnt, as plain data for a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - most have no state
        """Take back what ``state_dict`` gave."""


class ByKind(Retriever):
    """The general skills and those of the task's kind."""

    def retrieve(self, task: Task, library: SkillLibrary) -> list[Skill]:
        return library.for_task(task)


class All(Retriever):
    """Every skill of the library."""

    def retrieve(self, task: Task, library: SkillLibrary) -> list[Skill]:
        return list(library)


class _Best(Retriever):
    """The general skills and the ``n`` special ones that score highest; raises ``UserError`` for ``n`` < 1."""

    def __init__(self, n: int = 1) -> None:
        if n < 1:
            raise UserError(f"{type(self).__name__}: n is {n}: ask for at least one skill")
        self.n = n

    def _best(self, library: SkillLibrary, score: Callable[[int, Skill], float]) -> list[Skill]:
        """``score`` of a skill and its number in the library; -inf leaves a skill out. Ties: the first wins."""
        scores = {k: score(k, skill) for k, skill in enumerate(library) if skill.kinds}
        ranked = sorted((k for k in scores if scores[k] > -math.inf), key=lambda k: -scores[k])
        return [skill for skill in library if not skill.kinds] + [library.skills[k] for k in ranked[: self.n]]


class Random(_Best):
    """``n`` special skills by chance, always the same for one seed and task."""

    def __init__(self, n: int = 1, seed: int = 0) -> None:
        super().__init__(n)
        self.seed = seed

    def retrieve(self, task: Task, library: SkillLibrary) -> list[Skill]:
        rng = random.Random(f"{self.seed}/{task.id}")
        return self._best(library, lambda k, skill: rng.random())


class Keyword(_Best):
    """The ``n`` special skills whose name and description overlap most with the goal in whole words.

    Overlap: words shared / words in either (Jaccard); a skill that shares no word is left out.
    """

    def retrieve(self, task: Task, library: SkillLibrary) -> list[Skill]:
        goal = set(words(task.text))

        def overlap(k: int, skill: Skill) -> float:
            document = set(_document(skill))
            return len(goal & document) / len(goal | document) if goal & document else -math.inf

        return self._best(library, overlap)


class BM25(_Best):
    """The ``n`` special skills with the highest BM25 score of name and description for the goal's words.

    A skill that shares no word is left out. Needs the package bm25s (extra ``search``): raises
    ``UserError`` without it.
    """

    def __init__(self, n: int = 1) -> None:
        super().__init__(n)
        try:
            import bm25s
        except ImportError as error:
            raise UserError("BM25 needs the package bm25s: pip install 'sdar_pl[search]', or use Keyword") from error
        self._new_index: Callable[[], Any] = bm25s.BM25
        self._indexed: tuple[SkillLibrary, Any] | None = None

    def retrieve(self, task: Task, library: SkillLibrary) -> list[Skill]:
        if self._indexed is None or self._indexed[0] is not library:
            index = self._new_index()
            index.index([_document(skill) for skill in library], show_progress=False)
            self._indexed = (library, index)
        scores = self._indexed[1].get_scores(words(task.text))
        return self._best(library, lambda k, skill: float(scores[k]) or -math.inf)


class UCB(_Best):
    """The ``n`` special skills with the highest upper confidence bound of success, for each task kind alone.

    Bound: mean success + ``exploration`` · √(ln N / N_skill) (UCB1; Auer, Cesa-Bianchi and Fischer 2002), where
    N is what the task's kind has heard of all skills. Untried skills come first; ties break by seed and task.
    """

    def __init__(self, n: int = 1, exploration: float = 1.0, seed: int = 0) -> None:
        super().__init__(n)
        self.exploration = exploration
        self.seed = seed
        self._heard: dict[str, dict[str, list[int]]] = {}  # kind → skill → [episodes, successes]

    def retrieve(self, task: Task, library: SkillLibrary) -> list[Skill]:
        heard = self._heard.get(task.kind, {})
        total = sum(episodes for episodes, _ in heard.values())
        rng = random.Random(f"{self.seed}/{task.id}")

        def bound(k: int, skill: Skill) -> float:
            tie = rng.random()
            episodes, successes = heard.get(skill.name, (0, 0))
            if not episodes:
                return 1e6 + tie
            return successes / episodes + self.exploration * math.sqrt(math.log(total) / episodes) + 1e-9 * tie

        return self._best(library, bound)

    def update(self, task: Task, skills: Sequence[Skill], success: bool) -> None:
        heard = self._heard.setdefault(task.kind, {})
        for skill in skills:
            if skill.kinds:  # the general ones are always given: there is nothing to choose
                count = heard.setdefault(skill.name, [0, 0])
                count[0] += 1
                count[1] += bool(success)

    def state_dict(self) -> dict[str, Any]:
        return {kind: {name: list(count) for name, count in heard.items()} for kind, heard in self._heard.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._heard = {kind: {name: list(count) for name, count in heard.items()} for kind, heard in state.items()}
