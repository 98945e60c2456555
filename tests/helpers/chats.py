"""Conversations for tests: a bound prompter, an episode with a skill, answers played on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from helpers.models import TEMPLATE, make_tokenizer
from helpers.worlds import Echo
from sdar_pl.prompts import Prompter
from sdar_pl.types import Episode, Observation, Task, Turn

SKILL = "Look on the shelf first."


def bound(template: str = TEMPLATE, tokenizer: Any = None, **options: Any) -> Prompter:
    prompter = Prompter(**options)
    prompter.bind(tokenizer or make_tokenizer(template))
    return prompter


def an_episode(context: str = SKILL, student_context: str = "") -> Episode:
    task = Task("t/1", "echo", "put a mug on a shelf")
    return Episode(task, 0, 0, Observation("you are in the room."), context=context, student_context=student_context)


def play_on(prompter: Prompter, episode: Episode, answers: Sequence[str], end: bool = True, world: Any = None) -> None:
    """Play ``answers`` on the episode, one a turn."""
    tokenizer = prompter.tokenizer
    for number, answer in enumerate(answers, len(episode.turns)):
        student, teacher = prompter.prompts(world or Echo(), episode)
        response = tokenizer.encode(answer, add_special_tokens=False) + [tokenizer.eos_token_id] * end
        observation = Observation(f"turn {number}: you go to shelf {number}.")
        turn = Turn(student, response, [0.0] * len(response), answer, answer, True, observation, teacher)
        episode.turns.append(turn)


def text_of(prompter: Prompter, tokens: Sequence[int]) -> str:
    return str(prompter.tokenizer.decode(tokens))


def rendered(prompter: Prompter, messages: Sequence[tuple[str, str]], generate: bool = True) -> str:
    """The chat template itself, on the whole conversation."""
    chat = [{"role": role, "content": content} for role, content in messages]
    return str(
        prompter.tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=generate, enable_thinking=False
        )
    )


ANSWERS = ("go to shelf 1", "take the mug", "put it down")
