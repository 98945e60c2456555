"""Retrievers: the choice of a library's skills for a task, by the task's explicit kind or its goal, never by a prompt.

``ByKind`` and ``All`` choose by metadata, ``Keyword`` and ``BM25`` by the goal's words, ``Random`` at random, ``UCB``
by the success of earlier episodes. ``n`` counts special skills (those with ``kinds``); general ones always come first.
Left out: embeddings (goals are short), and writing skills.
"""

from __future__ import annotations

import math
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from sdar_pl.checks import at_least
from sdar_pl.errors import UserError
from sdar_pl.skills.library import SkillLibrary
from sdar_pl.types import Skill, Task

#: stop words
# fmt: off
_STOP = frozenset([
    "a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "in", "into", "is", "it",
    "not", "of", "on", "one", "or", "some", "that", "the", "them", "then", "to", "with",
])
# fmt: on


def words(text: str) -> list[str]:
    """The whole words of a text in lower case, without stop words."""
    return [word for word in re.findall(r"[a-z]+", text.lower()) if word not in _STOP]


def _document(skill: Skill) -> list[str]:
    """The words that a goal is compared with: name and description. A skill's text also names other goals' objects."""
    return words(f"{skill.name} {skill.description}")


class Retriever(ABC):
    """A rule that chooses skills for a task. It may learn from the outcomes of episodes."""

    @abstractmethod
    def retrieve(self, task: Task, library: SkillLibrary) -> list[Skill]:
        """The skills for the task, general ones first; can be empty."""

    def update(self, task: Task, skills: Sequence[Skill], success: bool) -> None:  # noqa: B027 - most do not learn
        """Learn from the outcome of one episode whose context held these skills."""

    def state_dict(self) -> dict[str, Any]:
        """Everything learnt, as plain data for a checkpoint (numbers, texts, lists, dictionaries)."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - most have no state
        """Restore the state that ``state_dict`` returned."""


class ByKind(Retriever):
    """The general skills, then those of the task's kind."""

    def retrieve(self, task: Task, library: SkillLibrary) -> list[Skill]:
        return library.for_task(task)


class All(Retriever):
    """Every skill of the library."""

    def retrieve(self, task: Task, library: SkillLibrary) -> list[Skill]:
        return list(library)


class _Best(Retriever):
    """The general skills and the ``n`` special ones with the highest scores. Raises ``UserError`` for ``n`` < 1."""

    def __init__(self, n: int = 1) -> None:
        self.n = at_least("data.context.retriever.n", n, 1)

    def _best(self, library: SkillLibrary, score: Callable[[int, Skill], float]) -> list[Skill]:
        """The general skills, then the best special ones.

        ``score`` takes a skill's index in the library and the skill; -inf leaves it out. The first of equals wins.
        """
        scores = {k: score(k, skill) for k, skill in enumerate(library) if skill.kinds}
        ranked = sorted((k for k in scores if scores[k] > -math.inf), key=lambda k: -scores[k])
        return [skill for skill in library if not skill.kinds] + [library.skills[k] for k in ranked[: self.n]]


class Random(_Best):
    """``n`` special skills at random; the same ones for the same seed and task.

    Args:
        n: number of special skills (≥ 1).
        seed: of the choice.
    """

    def __init__(self, n: int = 1, seed: int = 0) -> None:
        super().__init__(n)
        self.seed = seed

    def retrieve(self, task: Task, library: SkillLibrary) -> list[Skill]:
        rng = random.Random(f"{self.seed}/{task.id}")
        return self._best(library, lambda k, skill: rng.random())


class Keyword(_Best):
    """The ``n`` special skills whose name and description have the highest Jaccard index with the goal, in whole words.

    The index is |shared words| / |words in either|. A skill that shares no word is left out.

    Args:
        n: highest number of special skills (≥ 1).
    """

    def __init__(self, n: int = 1) -> None:
        super().__init__(n)

    def retrieve(self, task: Task, library: SkillLibrary) -> list[Skill]:
        goal = set(words(task.text))

        def overlap(k: int, skill: Skill) -> float:
            document = set(_document(skill))
            return len(goal & document) / len(goal | document) if goal & document else -math.inf

        return self._best(library, overlap)


class BM25(_Best):
    """The ``n`` special skills with the highest BM25 score of name and description for the goal's words.

    A skill that shares no word is left out. Raises ``UserError`` without the package bm25s (extra ``search``).

    Args:
        n: highest number of special skills (≥ 1).
    """

    def __init__(self, n: int = 1) -> None:
        super().__init__(n)
        try:
            import bm25s
        except ImportError as error:
            raise UserError(
                "data.context.retriever: BM25 needs the package bm25s; pip install 'sdar_pl[search]', or use Keyword"
            ) from error
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
    """The ``n`` special skills with the highest upper confidence bound of success, separately for each task kind.

    Bound: mean success + ``exploration`` · √(ln N / N_skill) (UCB1; Auer, Cesa-Bianchi and Fischer 2002). N_skill is
    the number of the kind's episodes with the skill, N its sum over skills. Untried skills come first. Seed and task
    break ties.

    Args:
        n: number of special skills (≥ 1).
        exploration: weight of the confidence term (≥ 0); 0 always takes the skill with the highest mean.
        seed: breaks ties.
    """

    def __init__(self, n: int = 1, exploration: float = 1.0, seed: int = 0) -> None:
        super().__init__(n)
        self.exploration = at_least("data.context.retriever.exploration", exploration, 0)
        self.seed = seed
        self._counts: dict[str, dict[str, list[int]]] = {}  # kind → skill → [episodes, successes]

    def retrieve(self, task: Task, library: SkillLibrary) -> list[Skill]:
        counts = self._counts.get(task.kind, {})
        total = sum(episodes for episodes, _ in counts.values())
        rng = random.Random(f"{self.seed}/{task.id}")

        def bound(k: int, skill: Skill) -> float:
            tie = rng.random()
            episodes, successes = counts.get(skill.name, (0, 0))
            if not episodes:
                return 1e6 + tie
            return successes / episodes + self.exploration * math.sqrt(math.log(total) / episodes) + 1e-9 * tie

        return self._best(library, bound)

    def update(self, task: Task, skills: Sequence[Skill], success: bool) -> None:
        counts = self._counts.setdefault(task.kind, {})
        for skill in skills:
            if skill.kinds:  # general skills are always retrieved: there is no choice to learn
                count = counts.setdefault(skill.name, [0, 0])
                count[0] += 1
                count[1] += bool(success)

    def state_dict(self) -> dict[str, Any]:
        return _copied(self._counts)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._counts = _copied(state)


def _copied(counts: dict[str, dict[str, list[int]]]) -> dict[str, dict[str, list[int]]]:
    return {kind: {name: list(count) for name, count in skills.items()} for kind, skills in counts.items()}
