"""Checks of the sessions: what they return, their independence of each other, and their end."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import closing
from threading import Barrier, Thread

from sdar_pl.environments.contract.plays import (
    ContractError,
    NotCheckedError,
    Play,
    Subject,
    call,
    open_session,
    reset,
    scripted,
    step,
)
from sdar_pl.environments.observations import brief, problems
from sdar_pl.types import Observation

THREADS = 4


def episodes(subject: Subject) -> Iterator[str]:
    """``reset`` and ``step`` return an ``Observation`` and never raise, whatever the action."""
    assert subject.plays
    yield from ()


def observations(subject: Subject) -> Iterator[str]:
    """Every observation has fields of the right type, a finite reward, and no success without ``done``."""
    for play in subject.plays:
        problem = next((problem for seen in play.observations for problem in (*problems(seen), *_twice(seen))), None)
        if problem:
            yield f"{problem} (task {play.task.id})"


def _twice(seen: Observation) -> Iterator[str]:
    if isinstance(seen.admissible, tuple) and len(set(seen.admissible)) < len(seen.admissible):
        yield f"Observation.admissible names a command twice: {brief(seen.admissible)}"


def first_observation(subject: Subject) -> Iterator[str]:
    """``reset`` neither ends nor rewards the episode."""
    for play in subject.plays:
        if play.first.done or play.first.reward:
            yield f"reset() of task {play.task.id} returned done or a reward; only step() may"
            return


def after_done(subject: Subject) -> Iterator[str]:
    """After ``done`` a further step raises an ``Exception``, or repeats ``done`` and ``success`` with reward 0."""
    ended = [play for play in subject.plays if play.last.done]
    if not ended:
        raise NotCheckedError("no episode ended")
    for play in ended:
        with closing(open_session(subject.environment, play.task)) as session:
            reset(session, play.task)
            for action, _ in play.steps:
                session.step(action)
            for action in (play.steps[-1][0], *play.first.admissible[:1], "nonsense"):
                try:
                    seen = session.step(action)
                except Exception:
                    continue
                if not isinstance(seen, Observation) or (seen.done, seen.success) != (True, play.last.success):
                    yield f"step() after done goes on (task {play.task.id}); must raise or repeat the end"
                    return
                if seen.reward:
                    yield f"step() after done gives the reward {seen.reward} (task {play.task.id}); must be 0"
                    return


def single_use(subject: Subject) -> Iterator[str]:
    """``session`` returns a new session at every call, and sessions side by side do not disturb each other."""
    for play in subject.random_plays:
        with (
            closing(open_session(subject.environment, play.task)) as session,
            closing(open_session(subject.environment, play.task)) as other,
        ):
            if session is other:
                yield f"session() returned the same session twice (task {play.task.id}); must make a new one"
                return
            replayed = Play(play.task, reset(session, play.task), [])
            ended = reset(other, play.task).done
            for number, (action, _) in enumerate(play.steps):
                if number % 2 and not ended:  # the other session is some steps behind, and goes another way
                    ended = step(other, play.steps[-number][0], play.task).done
                replayed.steps.append((action, step(session, action, play.task)))
            if difference := _difference(play, replayed):
                yield f"a second session beside it changes an episode: {difference}"
                return


def deterministic(subject: Subject) -> Iterator[str]:
    """The same task and actions give the same observations: again, for a copy of the task, in another instance."""
    another = subject.make()
    for play in subject.plays:
        for environment, task in ((subject.environment, play.task), (another, copy.deepcopy(play.task))):
            if difference := _difference(play, scripted(environment, task, [action for action, _ in play.steps])):
                yield f"the same actions give other observations: {difference}"
                return


def threads(subject: Subject) -> Iterator[str]:
    """The same holds where several threads open and play sessions of one instance at the same time."""
    environment, barrier = subject.make(), Barrier(THREADS)
    problems: list[str] = []

    def work(first: int) -> None:
        barrier.wait()
        plays = subject.random_plays
        for number in range(len(plays)):
            play = plays[(first + number) % len(plays)]
            try:
                replayed = scripted(environment, play.task, [action for action, _ in play.steps])
            except Exception as error:
                problems.append(f"in several threads {error}")
                return
            if difference := _difference(play, replayed):
                problems.append(f"in several threads the same actions give other observations: {difference}")
                return

    assert subject.random_plays
    workers = [Thread(target=work, args=(number // 2,)) for number in range(THREADS)]  # two play the same task
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    yield from problems[:1]


def admissible(subject: Subject) -> Iterator[str]:
    """No admissible command is answered as garbage is, where all garbage is answered with one fixed text."""
    if not any(play.first.admissible for play in subject.random_plays):
        raise NotCheckedError("no admissible commands are listed")
    refusals = {seen.text for play in subject.garbage_plays for action, seen in play.steps}
    if len(refusals) != 1 or refusals & {play.first.text for play in subject.plays}:
        raise NotCheckedError("actions that are not understood have no answer of their own")
    for play in subject.random_plays:
        for before, (action, seen) in zip(play.observations, play.steps, strict=False):
            if action in before.admissible and seen.text in refusals:
                yield f"admissible command {brief(action)} is answered with {brief(seen.text)} (task {play.task.id})"
                return


def close(subject: Subject) -> Iterator[str]:
    """``close`` may be called before ``reset``, in the middle of an episode, and twice."""
    task = subject.tasks[0]
    for opened in (False, True):
        session = open_session(subject.environment, task)
        if opened:
            reset(session, task)
        call("close() after reset()" if opened else "close() before reset()", session.close)
        call("a second close()", session.close)
    yield from ()


def expert_plan(subject: Subject) -> Iterator[str]:
    """Where ``expert_plan`` knows a solution, its last action, and none before, brings success."""
    if not subject.environment.knows_solutions:
        raise NotCheckedError("expert_plan is not overridden")
    for task in subject.tasks:
        plan = call("expert_plan()", subject.environment.expert_plan, task)
        if not isinstance(plan, tuple) or not all(isinstance(action, str) for action in plan):
            raise ContractError(f"expert_plan() returned {brief(plan)}; must be a tuple of texts")
        if not plan:
            continue
        play = scripted(subject.environment, task, plan)
        if not play.last.success or len(play.steps) < len(plan):
            yield f"expert_plan() of task {task.id} does not end in success with its last action"
            return


def _difference(play: Play, other: Play) -> str:
    for number, (seen, again) in enumerate(zip(play.observations, other.observations, strict=False)):
        if seen != again:
            fields = [name for name in vars(seen) if getattr(seen, name) != getattr(again, name)]
            return f"{' and '.join(fields)} of observation {number} (task {play.task.id})"
    return "" if len(play.steps) == len(other.steps) else f"the episode's length (task {play.task.id})"
