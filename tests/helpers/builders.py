"""Episodes, rows and batches for tests."""

from __future__ import annotations

import threading

import numpy as np

from sdar_pl.batch import Batch, Row, collate
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


def a_row(number: int, length: int, spans: list[tuple[int, int]]) -> Row:
    """A row of random tokens whose responses stand at ``spans``."""
    tokens = np.random.default_rng(number).integers(5, 250, length).tolist()
    positions = [p for begin, end in spans for p in range(begin, end)]
    turns = [turn for turn, (begin, end) in enumerate(spans) for _ in range(begin, end)]
    return Row(number, 0, tokens, positions, turns, [0.0] * len(positions))


def a_batch() -> Batch:
    """Three rows: several responses, one, and none (a blank row that fills a rank's last micro-batch)."""
    return collate([a_row(0, 40, [(6, 11), (20, 28), (33, 40)]), a_row(1, 17, [(9, 12)]), a_row(2, 2, [])])
