"""Prompts of Search-QA. The prose is our own; the tags and the order of the parts are the paper's recipe.

With ``think=False`` a conversation is short enough for a policy of a few million parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

from sdar_pl.environments.action_tags import refuse_thoughts
from sdar_pl.environments.base import Environment
from sdar_pl.environments.search_qa.answers import parse_action
from sdar_pl.environments.search_qa.questions import KINDS
from sdar_pl.types import Observation, Task


class SearchPrompts(Environment):
    """The wording of questions, searches and answers.

    Args:
        think: ask for reasoning in <think> tags before each search or answer.
    """

    kinds: tuple[str, ...] = KINDS

    def __init__(self, *, think: bool = True) -> None:
        self.think = think

    def parse(self, text: str) -> tuple[str, bool]:
        return parse_action(text)

    def response(self, action: str) -> str:
        refuse_thoughts(self.think)
        return action

    def opening(self, task: Task, first: Observation) -> str:
        if not self.think:
            return f"<search>words</search> or <answer>words</answer>\n\n{first.text}"
        return f"Answer a question with the help of a search engine. {self._format()}\n\nQuestion: {first.text}"

    def reply(self, observation: Observation) -> str:
        return observation.text

    def window(
        self,
        task: Task,
        first: Observation,
        history: Sequence[tuple[str, Observation]],
        steps: int,
    ) -> str:
        """See ``Environment.window``. Each past step is shown as its action and the observation that answered it."""
        parts = [f"Answer a question with the help of a search engine. Question: {task.text}"]
        begin = max(0, len(history) - steps)
        if history:
            parts.append(f"Steps taken so far: {len(history)}.")
        parts.extend(f"[Step {k + 1}] {history[k][0]}\n{history[k][1].text}" for k in range(begin, len(history)))
        if begin == len(history):
            parts.append((history[-1][1] if history else first).text)
        parts.append(f"Now step {len(history) + 1}. {self._format()}")
        return "\n\n".join(parts)

    def _format(self) -> str:
        think = "First reason about what you know and what is missing, inside <think></think>. " if self.think else ""
        return (
            f"{think}If something is missing, search for it: <search>words</search>; passages come back inside "
            "<information></information>. If nothing is missing, give the answer alone, without explanation: "
            "<answer>words</answer>. One search or one answer at a time."
        )
