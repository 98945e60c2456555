"""Episodes, rows and batches for tests."""

from __future__ import annotations

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
