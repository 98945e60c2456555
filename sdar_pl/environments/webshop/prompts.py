"""Prompts of WebShop, and the parser of the policy's output. The prose is our own; site.py writes the pages."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sdar_pl.environments import action_tags
from sdar_pl.environments.base import Environment
from sdar_pl.types import Observation, Task


def parse_action(text: str, think: bool = True) -> tuple[str, bool]:
    """``action_tags.parse_action``; without both tags the last 20 characters are the action."""
    return action_tags.parse_action(text, think, tail=20)


class WebShopPrompts(Environment):
    """The wording of WebShop; a subclass adds ``tasks`` and ``session``.

    Args:
        think: ask for reasoning in <think> tags before the action, and count an output without them as invalid.
        show_admissible: list the admissible actions with every page.
    """

    def __init__(self, *, think: bool = True, show_admissible: bool = True) -> None:
        self.think = think
        self.show_admissible = show_admissible

    def parse(self, text: str) -> tuple[str, bool]:
        return parse_action(text, self.think)

    def response(self, action: str) -> str:
        return action_tags.tagged(action, self.think)

    def opening(self, task: Task, first: Observation) -> str:
        if not self.think and not self.show_admissible:
            return f"Answer with <action>search[words]</action> or <action>click[text]</action>.\n\n{first.text}"
        return f"{_RULES} {self._format()}\n\n{first.text}{self._actions(first)}"

    def reply(self, observation: Observation) -> str:
        """The page without the goal, which the conversation's first message has."""
        return _REPEATED.sub("", observation.text) + self._actions(observation)

    def window(
        self,
        task: Task,
        first: Observation,
        history: Sequence[tuple[str, Observation]],
        steps: int,
    ) -> str:
        """See ``Environment.window``. Each past step is shown as the page before it and the action."""
        seen = [first, *(observation for _, observation in history)]
        pages = [_without_instruction(observation.text, task.text) for observation in seen]
        parts = [f"{_RULES} Your task is: {task.text}"]
        begin = max(0, len(history) - steps)
        if begin < len(history):
            parts.append(f"Steps taken so far: {len(history)}. The last {len(history) - begin}:")
            parts.extend(
                f"[Step {k + 1}] Page: {pages[k]}\n[Step {k + 1}] Action: {history[k][0]}"
                for k in range(begin, len(history))
            )
        elif history:
            parts.append(f"Steps taken so far: {len(history)}.")
        parts.append(f"Now step {len(history) + 1}. Page: {pages[-1]}{self._actions(seen[-1])}")
        parts.append(self._format())
        return "\n\n".join(parts)

    def _format(self) -> str:
        choice = "exactly one of the admissible actions" if self.show_admissible else "exactly one action"
        if not self.think:
            return f"Answer with {choice} as <action>…</action>."
        return (
            "First reason step by step about what the product must have and what to do next, inside <think></think>. "
            f"Then give {choice} inside <action></action>."
        )

    def _actions(self, observation: Observation) -> str:
        if not self.show_admissible or not observation.admissible:
            return ""
        return "\n\nAdmissible actions:\n" + "\n".join(observation.admissible)


_REPEATED = re.compile(r"^Instruction: \[SEP\] .*? \[SEP\] (?=Back to Search)", re.DOTALL)
_RULES = (
    "You shop on a website by text actions, one at a time: search[words] looks for products, click[text] presses a "
    "button, opens a product by its code or chooses an option. The episode ends with click[buy now]."
)


def _without_instruction(page: str, task: str) -> str:
    """A page without the goal that every page repeats."""
    return page.replace(f"Instruction: [SEP] {task} [SEP] ", "", 1)
