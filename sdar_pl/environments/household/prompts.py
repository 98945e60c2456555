"""Prompts of household games.

AlfWorld (real games) and Household (generated ones) share these prompts. A *windowed* prompt follows the recipe of the
paper: task, step count, the last N steps with their numbers, the current observation and the admissible commands, then
the answer format. A *conversation* states the format once. With ``think=False`` and ``show_admissible=False`` it is
short enough for a policy of two million parameters. The prose is our own. game.py defines a game, rules.py its rules.
"""

from __future__ import annotations

from collections.abc import Sequence

from sdar_pl.environments.action_tags import parse_action, tagged
from sdar_pl.environments.base import Environment
from sdar_pl.environments.household.game import KINDS
from sdar_pl.types import Observation, Task

#: first line of every game's first feedback; prompts leave it out
HEADER = "-= Welcome to TextWorld, ALFRED! =-"


class HouseholdPrompts(Environment):
    """The wording of a household environment; a subclass adds ``tasks`` and ``session``.

    Args:
        think: ask for reasoning in <think> tags before the action, and count an output without them as invalid.
        show_admissible: list the admissible commands with every observation.
    """

    kinds: tuple[str, ...] = KINDS

    def __init__(self, *, think: bool = True, show_admissible: bool = True) -> None:
        self.think = think
        self.show_admissible = show_admissible

    def parse(self, text: str) -> tuple[str, bool]:
        return parse_action(text, self.think)

    def response(self, action: str) -> str:
        return tagged(action, self.think)

    def opening(self, task: Task, first: Observation) -> str:
        if not self.think and not self.show_admissible:
            return f"Answer with <action>command</action>.\n\n{_plain(first)}"
        return (
            "You act in a household by text commands, one command at a time, until the task is done. "
            f"{self._format()}\n\n{_plain(first)}{self._commands(first)}"
        )

    def reply(self, observation: Observation) -> str:
        return _plain(observation) + self._commands(observation)

    def window(
        self,
        task: Task,
        first: Observation,
        history: Sequence[tuple[str, Observation]],
        steps: int,
    ) -> str:
        """See ``Environment.window``. Each past step is shown as the observation before it and the action."""
        seen = [first, *(observation for _, observation in history)]
        parts = [f"You act in a household by text commands. Your task is: {task.text}."]
        begin = max(0, len(history) - steps)
        if begin < len(history):
            parts.append(f"Steps taken so far: {len(history)}. The last {len(history) - begin}:")
            parts.extend(
                f"[Step {k + 1}] Observation: {_plain(seen[k])}\n[Step {k + 1}] Action: {history[k][0]}"
                for k in range(begin, len(history))
            )
        elif history:
            parts.append(f"Steps taken so far: {len(history)}.")
        parts.append(f"Now step {len(history) + 1}. Observation: {_plain(seen[-1])}{self._commands(seen[-1])}")
        parts.append(self._format())
        return "\n\n".join(parts)

    def _format(self) -> str:
        choice = "exactly one of the admissible commands" if self.show_admissible else "exactly one command"
        if not self.think:
            return f"Answer with {choice} as <action>command</action>."
        return (
            "First reason step by step about where things stand and what to do next, inside <think></think>. "
            f"Then give {choice} inside <action></action>."
        )

    def _commands(self, observation: Observation) -> str:
        if not self.show_admissible:
            return ""
        # "help" would only list the commands once more.
        lines = [command for command in observation.admissible if command != "help"]
        return "\n\nAdmissible commands:\n" + "\n".join(lines) if lines else ""


def _plain(observation: Observation) -> str:
    return observation.text.removeprefix(HEADER).strip()
