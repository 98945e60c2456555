"""Episodes, rows and batches for tests."""

from __future__ import annotations

import threading

from sdar_pl.types import Episode, Observation, Task, Turn


def an_episode(teacher: bool = True) -> Episode:
    """Three turns; the teacher's first prompt is longer."""
    episode = Episode(Task("t", "k", "text"), group=3, index=1, first=Observation(""))
    for number in range(3):
        prompt = [10 * number + 1, 10 * number + 2]
        response = [100 * number + k for k in range(number + 1)]
        turn = Turn(prompt, response, [-0.5 * (number + 1)] * len(response), "", "", True, Observation(""))
        turn.teacher_prompt = [7, 7, *prompt] if teacher and number == 0 else None
        episode.turns.append(turn)
    return episode


def an_outcome(group: int, index: int, reward: float) -> Episode:
    """An episode of one or two turns with this outcome; its task's data cannot be pickled."""
    played = Episode(Task(f"{group}", "k", "", data=threading.Lock()), group, index, Observation(""))
    seen = Observation("", reward=reward, done=True, success=reward > 0)
    played.turns = [Turn([1], [2], [0.0], "", "", True, seen) for _ in range(1 + (group + index) % 2)]
    return played
