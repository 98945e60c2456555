"""EpisodeSlot: one episode to play, and Attempt: one try at it (rollout.py plays them)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sdar_pl.environments.base import Session
from sdar_pl.environments.listing import refuse_bad_task
from sdar_pl.sampling.tasks import EVALUATE
from sdar_pl.skills.providers import ContextProvider
from sdar_pl.types import Episode, Task


@dataclass
class Attempt:
    """One try at an episode, on a session of its own.

    Worker threads hold the Attempt, not the slot. A thread that returns after its time limit can only touch an
    Attempt that nobody reads any more.
    """

    stream: np.random.Generator
    episode: Episode | None = None
    tokens: list[int] = field(default_factory=list)  # the prompt that the engine reads next, from its beginning
    prompt: list[int] = field(default_factory=list)  # the part of it that is new in this turn
    teacher_prompt: list[int] | None = None  # the teacher's, None: the same
    given_up: bool = False
    #: The open session, in a list because ``list.pop`` is atomic: of two threads that close it, one gets it.
    session: list[Session] = field(default_factory=list)

    def close(self) -> None:
        """Close the session if no other thread has closed it."""
        with contextlib.suppress(IndexError):
            self.session.pop().close()


@dataclass
class EpisodeSlot:
    """One episode to play.

    Args:
        task: the task.
        group: number of its group.
        index: number within the group.
        number: name of the episode for the engine, unique among the slots that play together.
        seed: start of the episode's random stream, a sequence (seed, purpose, iteration, ..., group, index). The
            count of failures is appended, so that an episode that starts again samples other tokens.
        context: the privileged context.
        student_context: the context that the student is shown as well.
        failures: how often a session of this slot has failed.
        attempt: the try that is going on.

    Example:
        Episode 1 of group 3 in iteration 7 of a run with seed 0, 8 episodes a group::

            EpisodeSlot(task, group=3, index=1, number=25, seed=(0, TRAIN, 7, 3, 1), context="Open the fridge first.")

    Raises ``UserError`` for a task that is not valid.
    """

    task: Task
    group: int
    index: int
    number: int
    seed: tuple[int, ...]
    context: str = ""
    student_context: str = ""
    failures: int = 0
    attempt: Attempt | None = None

    def __post_init__(self) -> None:
        refuse_bad_task(self.task)

    @property
    def now(self) -> Attempt:
        """The try that is going on."""
        assert self.attempt is not None
        return self.attempt

    @property
    def episode(self) -> Episode:
        """The episode of the try that is going on."""
        assert self.now.episode is not None
        return self.now.episode


def training_slots(
    tasks: Mapping[int, Task],
    group_size: int,
    stream: tuple[int, ...],
    context: ContextProvider,
    show_context: bool,
) -> list[EpisodeSlot]:
    """The slots of groups: ``group_size`` episodes of each group's task, all with the same context.

    Args:
        tasks: number of each group → its task.
        group_size: episodes a group.
        stream: beginning of the seed sequences (tasks.draw).
        context: the provider of privileged context.
        show_context: show the context to the student as well.
    """
    slots = []
    for group, task in tasks.items():
        privileged = context.provide(task)
        for index in range(group_size):
            number, seed = group * group_size + index, (*stream, group, index)
            slot = EpisodeSlot(task, group, index, number, seed, context=privileged)
            slot.student_context = privileged if show_context else ""
            slots.append(slot)
    return slots


def panel_slots(numbered: Sequence[tuple[int, Task]], seed: int, context: ContextProvider) -> list[EpisodeSlot]:
    """The slots of panel tasks, each with its index in the panel: one episode a task, the student shown ``context``."""
    return [
        EpisodeSlot(task, i, 0, i, (seed, EVALUATE, i), student_context=context.provide(task)) for i, task in numbered
    ]
