"""Checks of the wording: how model outputs are read and what prompts show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from sdar_pl.environments.contract.plays import ContractError, Subject, call
from sdar_pl.environments.observations import brief
from sdar_pl.types import Observation, Task

#: stand in for actions in a history, to find in a prompt which of them it shows
_MARKS = ("zmarka", "zmarkb", "zmarkc", "zmarkd", "zmarke")
_OTHER = "zother: another observation."


def parse(subject: Subject) -> Iterator[str]:
    """``parse`` answers every text with (text, bool), and always the same."""
    for text in subject.garbage(subject.tasks[0]):
        answer = call(f"parse({brief(text)})", subject.environment.parse, text)
        pair = isinstance(answer, tuple) and [type(part) for part in answer] == [str, bool]
        if not pair:
            yield f"parse({brief(text)}) returned {brief(answer)}; must be (text, bool)"
        elif answer != subject.environment.parse(text):
            yield f"parse({brief(text)}) differs between two calls"


def conversation(subject: Subject) -> Iterator[str]:
    """``opening`` and ``reply`` are texts, never empty, the same at every call, and show their observation."""
    for play in subject.random_plays:
        task, first, last = play.task, play.first, play.last
        other = replace(last, text=_OTHER)
        opening = [_text("opening()", subject.environment.opening, task, seen) for seen in (first, first, other)]
        reply = [_text("reply()", subject.environment.reply, seen) for seen in (last, last, other)]
        for name, (shown, again, different) in (("opening()", opening), ("reply()", reply)):
            if shown != again:
                yield f"{name} differs between two calls (task {task.id})"
            elif shown == different:
                yield f"{name} does not show the observation (task {task.id})"


def window(subject: Subject) -> Iterator[str]:
    """``window`` shows the last ``steps`` actions and no other, and the current observation, also for 0 steps."""
    for play in subject.random_plays:
        seen = (play.observations * len(_MARKS))[: len(_MARKS)]
        history = list(zip(_MARKS, seen, strict=True))
        for length in (0, 1, len(_MARKS)):
            for steps in (0, 1, 3, len(_MARKS) + 1):
                yield from _window(subject, play.task, play.first, history[:length], steps)


def _window(
    subject: Subject, task: Task, first: Observation, history: Sequence[tuple[str, Observation]], steps: int
) -> Iterator[str]:
    where = f"window(steps={steps}) after {len(history)} turns (task {task.id})"
    text = _text(where, subject.environment.window, task, first, history, steps)
    if text != subject.environment.window(task, first, history, steps):
        yield f"{where} differs between two calls"
    expected = [mark for mark, _ in history[max(0, len(history) - steps) :]]
    shown = [mark for mark in _MARKS if mark in text.lower()]
    if shown != expected:
        yield f"{where} shows {len(shown)} actions; must show the last {len(expected)}"
    if history:
        mark, last = history[-1]
        changed = [*history[:-1], (mark, replace(last, text=_OTHER))]
        if text == _text(where, subject.environment.window, task, first, changed, steps):
            yield f"{where} does not show the current observation"


def _text(where: str, function: object, *arguments: object) -> str:
    assert callable(function)
    text = call(where, function, *arguments)
    if not isinstance(text, str) or not text.strip():
        raise ContractError(f"{where} returned {brief(text)}; must be a text that is not empty")
    return text
