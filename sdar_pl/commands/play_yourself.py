"""``play --human``: you act in an environment and read what the policy reads; no model is loaded.

What is typed is an action (``go to shelf 1``), or a whole answer in the format that the policy is asked for.
"""

from __future__ import annotations

from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.text import Text

from sdar_pl.checks import between, one_of
from sdar_pl.environments.base import Environment
from sdar_pl.environments.listing import refuse_bad_task, refuse_bad_tasks
from sdar_pl.environments.observations import received
from sdar_pl.errors import UserError
from sdar_pl.reports.transcript import Transcript
from sdar_pl.sampling.tasks import EVALUATE, tasks_of_split
from sdar_pl.skills.providers import ContextProvider
from sdar_pl.types import Episode, Observation, Task, Turn


def choose_task(
    environment: Environment, split: str, kind: str | None, number: int | None, seed: int
) -> tuple[int, Task]:
    """A task of a split, with its number there.

    Args:
        environment: the source of tasks.
        split: name of the split.
        kind: the task's kind; None: any.
        number: of the task in the split or, with ``kind``, among those of this kind; None: drawn with ``seed``.
        seed: of that draw.

    Raises ``UserError`` for a kind or a number that the split does not have.
    """
    tasks = tasks_of_split(environment, "validate", split)
    refuse_bad_tasks(environment, split)
    if kind is None:
        places: Any = range(len(tasks))
    else:
        one_of("--kind", kind, environment.kinds)
        # A split may be generated when it is read: no more of it than is needed.
        fitting = (place for place, task in enumerate(tasks) if task.kind == kind)
        places = list(islice(fitting, max(100, (number or 0) + 1)))
        if not places:
            raise UserError(f"--kind: {kind!r}; the split {split!r} has no task of this kind")
    if number is None:
        number = int(np.random.default_rng([seed, EVALUATE]).integers(len(places)))
    place = places[between("--task", number, 0, len(places) - 1)]
    refuse_bad_task(tasks[place])
    return place, tasks[place]


def play_yourself(config: Any, console: Console) -> None:
    """Play one episode by the lines of stdin. Raises ``UserError``."""
    if config.ckpt_path:
        raise UserError("--human: you play, and no checkpoint; leave out one of --human and --ckpt_path")
    environment, context = parts_of(config.data)
    context.bind(environment, config.data.group_size)
    number, task = choose_task(
        environment, config.data.validation_split, config.kind, config.task, int(config.seed_everything or 0)
    )
    advice = context.provide(task) if config.skills else ""
    if config.skills and not advice:
        raise UserError("--skills: data.context has nothing to read before this task is played; leave it out")
    transcript = Transcript(console, lambda _: "")
    transcript.line("task", f"{number} ({task.id}), {task.kind}: {task.text}")
    transcript.line("you", "type an action; an empty line lists what is understood now; Ctrl-D ends")
    if advice:
        transcript.observation(advice)
    transcript.outcome(episode_of(environment, task, config.data.play.max_turns, transcript))


def episode_of(environment: Environment, task: Task, max_turns: int, transcript: Transcript) -> Episode:
    """One episode, each action read from stdin, to its end or the end of the input."""
    with closing(environment.session(task)) as session:
        episode = Episode(task, 0, 0, received(session.reset(), first=True))
        transcript.observation(environment.opening(task, episode.first))
        seen = episode.first
        while not seen.done and len(episode.turns) < max_turns:
            text = typed(transcript.console, len(episode.turns) + 1, seen)
            if text is None:
                break
            action, valid = environment.parse(text)
            seen = received(session.step(action if valid else text))
            episode.turns.append(Turn([], [], [], text, action, valid, seen))
            transcript.observation(environment.reply(seen))
    return episode


def typed(console: Console, number: int, seen: Observation) -> str | None:
    """The next line that is not empty; None at the end of the input."""
    while True:
        try:
            text = console.input(Text(f"{number:>3} ", "bold")).strip()
        except EOFError:
            return None
        if text:
            return text
        console.print(Text("    " + " · ".join(seen.admissible or ["this environment lists no actions"]), "italic"))


def parts_of(data: Any) -> tuple[Environment, ContextProvider]:
    """The environment and the context provider of a parsed configuration, alone."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Environment, "environment")
    parser.add_subclass_arguments(ContextProvider, "context")
    made = parser.instantiate(Namespace(environment=data.environment, context=data.context))
    return made.environment, made.context
