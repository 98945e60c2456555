"""Search-QA: questions that are answered with the help of a search engine (Search-R1's setting, the paper's third).

The default needs neither data nor a server: a fictional encyclopaedia (fiction/) and BM25 in this process. Real
questions are rows in the Search-R1 layout (questions.py), real passages any corpus or server (sdar_pl/retrieval).
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from pathlib import Path

from sdar_pl.checks import at_least, one_of
from sdar_pl.environments.search_qa.answers import exact_match, f1, normalize_answer, parse_action, substring_match
from sdar_pl.environments.search_qa.expert import Expert, Novice
from sdar_pl.environments.search_qa.fiction import encyclopaedia
from sdar_pl.environments.search_qa.prompts import SearchPrompts
from sdar_pl.environments.search_qa.questions import KINDS, Question, load
from sdar_pl.environments.search_qa.session import SearchSession
from sdar_pl.errors import UserError
from sdar_pl.retrieval.base import PassageRetriever
from sdar_pl.retrieval.bm25 import BM25
from sdar_pl.types import Task, Turn

__all__ = ["SearchQA", "exact_match", "f1", "normalize_answer", "parse_action", "substring_match"]

FICTION = "fiction"


class SearchQA(SearchPrompts):
    """Questions with a search engine.

    Args:
        questions: "fiction", the packaged questions about an invented world; or a folder with one file in the Search-R1
            layout for each split (train.parquet, test.jsonl, …).
        retriever: finds passages; null means BM25 over the fictional encyclopaedia, for questions: fiction only.
        topk: passages for each search (≥ 1).
        kinds: task kinds to play; null means all four.
        seed: of the fiction; another seed makes another world. It does not follow ``seed_everything``.
        think: ask for reasoning in <think> tags before each search or answer.
        max_turns: searches and answers of an episode (≥ 1); data.play.max_turns limits it, too.
        success_reward: reward of a right answer; every other step has reward 0.

    Raises ``UserError`` for an unknown kind, a folder that does not exist, and questions of your own without a
    retriever.
    """

    def __init__(
        self,
        questions: str = FICTION,
        retriever: PassageRetriever | None = None,
        topk: int = 3,
        kinds: Sequence[str] | None = None,
        seed: int = 0,
        think: bool = False,
        max_turns: int = 4,
        success_reward: float = 10.0,
    ) -> None:
        super().__init__(think=think)
        self.kinds = _chosen(kinds)
        self.topk = at_least("data.environment.topk", topk, 1)
        self.max_turns = at_least("data.environment.max_turns", max_turns, 1)
        self.success_reward = at_least("data.environment.success_reward", success_reward, 0)
        self.seed = seed
        self.folder = None if questions == FICTION else Path(questions).expanduser()
        if self.folder and not self.folder.is_dir():
            raise UserError(
                f"data.environment.questions: no folder {questions!r}; name a folder of .parquet or .jsonl files, or "
                f"{FICTION!r}"
            )
        if self.folder and retriever is None:
            raise UserError(
                "data.environment.retriever: null; your own questions need one, such as sdar_pl.retrieval.bm25.BM25 "
                "or sdar_pl.retrieval.http.HttpRetriever"
            )
        self._retriever = retriever
        self._tasks: dict[str, list[Task]] = {}
        self._lock = threading.Lock()

    @property
    def retriever(self) -> PassageRetriever:
        """What finds the passages. The index of the fiction is built at the first use."""
        with self._lock:
            if self._retriever is None:
                self._retriever = BM25.of(encyclopaedia(self.seed).passages)
        return self._retriever

    def tasks(self, split: str) -> Sequence[Task]:
        """The questions of a split, in the order of the file. They are read once and then cached.

        Raises ``UserError`` for an unknown split, bad rows, and a split without a question of the chosen kinds.
        """
        with self._lock:
            if split not in self._tasks:
                self._tasks[split] = self._read(split)
        return self._tasks[split]

    def session(self, task: Task) -> SearchSession:
        answers = task.data["answers"]
        return SearchSession(task.text, answers, self.retriever, self.topk, self.max_turns, self.success_reward)

    def players(self, task: Task, rng: random.Random) -> tuple[Expert, Novice]:
        return Expert(task.text, rng), Novice(task.text, rng)

    def expert_plan(self, task: Task) -> tuple[str, ...]:
        """The expert's searches and its answer; empty where that is wrong, and for questions of your own."""
        if self.folder:
            return ()
        session, expert = self.session(task), Expert(task.text, random.Random(task.id))
        observation, actions = session.reset(), list[str]()
        while not observation.done:
            actions.append(expert.act(observation))
            observation = session.step(actions[-1])
        return tuple(actions) if observation.success else ()

    #: of an episode, for rewards of stages
    stages = ("search", "answer")

    def stage_of(self, turn: Turn) -> int:
        """1 for an answer, else 0."""
        return int(turn.action.startswith("<answer>"))

    def evidence_recall(self, task: Task, found: str) -> float:
        """The share of the task's evidence that the passages in ``found`` hold.

        In the fiction the evidence is the passages about the names that the expert searches for. For questions of your
        own it is a gold answer.
        """
        if self.folder:
            return substring_match(found, task.data["answers"])
        searched = [action.removeprefix("<search>") for action in self.expert_plan(task)]
        names = {name.removesuffix("</search>").strip() for name in searched if not name.startswith("<answer>")}
        return sum(f"(Title: {name})" in found for name in names) / len(names) if names else 0.0

    def _read(self, split: str) -> list[Task]:
        asked = load(self.folder, split) if self.folder else encyclopaedia(self.seed).questions(split)
        chosen = [_task(question) for question in asked if question.kind in self.kinds]
        if not chosen:
            raise UserError(f"data.environment.kinds: no question of {split!r} is of the kinds {', '.join(self.kinds)}")
        return chosen


def _task(question: Question) -> Task:
    data = {"answers": list(question.answers), "source": question.source}
    return Task(question.id, question.kind, question.text, data)


def _chosen(kinds: Sequence[str] | None) -> tuple[str, ...]:
    if kinds is None:
        return KINDS
    if not kinds:
        raise UserError(f"data.environment.kinds: is empty; must name some of {', '.join(KINDS)}, or be null for all")
    return tuple(one_of("data.environment.kinds", kind, KINDS) for kind in kinds)
