"""Reflections: notes that the policy writes about judged episodes, for the next ones (RubricEM, 2605.10899).

After an iteration the policy reads some of its episodes with their outcome and the rewards of their stages, and writes
a note about each (sampling/contexts.py). Left out of the paper's method: training the writer by what its notes bring.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from sdar_pl.checks import at_least
from sdar_pl.skills.providers import ContextProvider
from sdar_pl.skills.retrievers import words
from sdar_pl.types import Episode, Task

ASKED = "What should be done next time? Write one short note for a similar task. Name no object of this one."


class Reflections(ContextProvider):
    """Notes about earlier episodes: those of the same task first, then of its kind, by the words of the goal.

    The notes are the policy's own words about its own episodes: they are data in a teacher's prompt, and no better than
    the policy. The context is empty until the first iteration has ended.

    Args:
        show: notes that a context holds, ≥ 1; 2 in the paper.
        keep: notes that are kept for each kind, ≥ 1; a new one takes the place of the oldest.
        groups: groups of an iteration of which one episode each is reflected on, ≥ 1.
        most: characters of an episode that the writer reads, from its end, and of a note; ≥ 1.
        max_new_tokens: tokens of a note at most, ≥ 1.
        temperature: of the writer, ≥ 0; 0.7 in the paper.
    """

    def __init__(
        self,
        show: int = 2,
        keep: int = 16,
        groups: int = 4,
        most: int = 600,
        max_new_tokens: int = 64,
        temperature: float = 0.7,
    ) -> None:
        self.show = at_least("data.context.show", show, 1)
        self.keep = at_least("data.context.keep", keep, 1)
        self.groups = at_least("data.context.groups", groups, 1)
        self.most = at_least("data.context.most", most, 1)
        self.max_new_tokens = at_least("data.context.max_new_tokens", max_new_tokens, 1)
        self.temperature = at_least("data.context.temperature", temperature, 0)
        self._notes: dict[str, list[list[str]]] = {}  # kind → [task's id, its goal, the note], the oldest first

    def provide(self, task: Task) -> str:
        goal = set(words(task.text))

        def closeness(place: int) -> tuple[bool, float, int]:
            of_task, text, _ = notes[place]
            other = set(words(text))
            return of_task == task.id, len(goal & other) / max(1, len(goal | other)), place

        notes = self._notes.get(task.kind, [])
        best = sorted(range(len(notes)), key=closeness, reverse=True)[: self.show]
        return "\n".join(["Notes from earlier attempts:", *(f"- {notes[place][2]}" for place in best)]) if best else ""

    # ------------------------------------------------------------------ learning

    def chosen(self, episodes: Sequence[Episode]) -> list[Episode]:
        """The episodes to reflect on: of each of the first ``groups`` groups one, drawn uniformly."""
        found = list[Episode]()
        for number in sorted({episode.group for episode in episodes if episode.group < self.groups}):
            group = [episode for episode in episodes if episode.group == number]
            found.append(random.Random(f"{number}/{group[0].task.id}").choice(group))
        return found

    def question(self, episode: Episode) -> str:
        """What the policy is asked about a judged episode."""
        lines = [line for turn in episode.turns for line in (turn.action, turn.observation.text)]
        verdict = ["It succeeded." if episode.success else "It did not succeed."]
        verdict += [f"{part}: {value:.2f}" for part, value in episode.parts.items()]
        played = "\n".join(lines)[-self.most :]
        return f"An attempt at the task: {episode.task.text}\n{played}\n{' '.join(verdict)}\n{ASKED}"

    def learn(self, task: Task, note: str) -> None:
        """Keep a note about a task. Every rank receives the notes of all ranks, in the same order."""
        text = " ".join(note.split())[: self.most]
        kept = self._notes.setdefault(task.kind, [])
        if text and all(text != other for _, _, other in kept):
            kept.append([task.id, task.text, text])
            del kept[: -self.keep]

    def state_dict(self) -> dict[str, Any]:
        return {"notes": {kind: [list(note) for note in notes] for kind, notes in self._notes.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._notes = {kind: [list(note) for note in notes] for kind, notes in state.get("notes", {}).items()}
