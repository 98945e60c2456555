"""SearchSession: one question, searches, and one answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sdar_pl.environments.base import Session
from sdar_pl.environments.search_qa.answers import exact_match, f1, harmless, parse_action
from sdar_pl.retrieval.base import Passage, PassageRetriever
from sdar_pl.types import Observation

#: answer to an action that is neither a search nor an answer
NOT_UNDERSTOOD = "Neither a search nor an answer. Write <search>words</search> or <answer>words</answer>."


class SearchSession(Session):
    """One episode: every search is answered with passages, the first answer ends it. The score is the answer's F1.

    Args:
        question: its text.
        answers: the gold answers; each is right.
        retriever: finds the passages. Its ``UserError`` (an outage) passes through and ends the run.
        topk: passages for each search.
        max_turns: steps after which the episode ends without success.
        success_reward: reward of a right answer; every other step has reward 0.
    """

    def __init__(
        self,
        question: str,
        answers: Sequence[str],
        retriever: PassageRetriever,
        topk: int,
        max_turns: int,
        success_reward: float,
    ) -> None:
        self.answers, self.retriever, self.topk = answers, retriever, topk
        self.left, self.success_reward = max_turns, success_reward
        self.last = Observation(question, score=0.0)

    def reset(self) -> Observation:
        return self.last

    def step(self, action: str) -> Observation:
        if self.last.done:
            return replace(self.last, reward=0.0)
        self.left -= 1
        action, _ = parse_action(action)
        if action.startswith("<answer>"):
            answer, match = exact_match(action, self.answers)
            right, score = bool(match), f1(answer or "", self.answers)
            reward = self.success_reward if right else 0.0
            self.last = Observation("Right." if right else "Wrong.", (), reward, done=True, success=right, score=score)
        else:
            query = action.removeprefix("<search>").removesuffix("</search>")
            text = self._search(query) if query else NOT_UNDERSTOOD
            self.last = Observation(text, done=self.left == 0, score=0.0)
        return self.last

    def _search(self, query: str) -> str:
        return information(self.retriever.retrieve([query], self.topk)[0])


def information(passages: Sequence[Passage]) -> str:
    """Passages as the policy reads them. Tags within a passage are made harmless."""
    lines = [
        f"Doc {number}(Title: {harmless(passage.title)}) {harmless(passage.text)}"
        for number, passage in enumerate(passages, 1)
    ]
    return "\n".join(["<information>", *(lines or ["Nothing found."]), "</information>"])
