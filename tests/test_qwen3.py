"""Prompts of the real Qwen3 tokenizer and chat template."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.chats import ANSWERS, SKILL, an_episode, bound, play_on, rendered, text_of
from helpers.tokenizers import tokenizer_named
from helpers.worlds import Echo

from sdar_pl.batch import rows_of


@pytest.fixture(scope="module")
def qwen3() -> Any:
    return tokenizer_named("qwen3")


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_qwen3(qwen3: Any, system: str | None) -> None:
    prompter, episode = bound(tokenizer=qwen3, system=system), an_episode()
    # "Answer at once": Qwen3's template ends the prompt with an empty thought where thinking is off.
    off = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    opening = "<|im_start|>user\nput a mug on a shelf: you are in the room.<|im_end|>\n"
    own = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    play_on(prompter, episode, [*ANSWERS[:2]])
    play_on(prompter, episode, ANSWERS[2:], end=False)
    last, _ = prompter.prompts(Echo(), episode)
    first = episode.turns[0]
    assert text_of(prompter, first.prompt) == own + opening + off
    skilled = f"{system}\n\n{SKILL}" if system else SKILL
    assert text_of(prompter, first.teacher_prompt) == f"<|im_start|>system\n{skilled}<|im_end|>\n{opening}{off}"
    end = qwen3.convert_tokens_to_ids("<|im_end|>")
    assert end == qwen3.eos_token_id == first.response[-1]
    following = "\n<|im_start|>user\nturn 0: you go to shelf 0.<|im_end|>\n" + off
    assert text_of(prompter, episode.turns[1].prompt) == following
    assert text_of(prompter, last) == "<|im_end|>" + following.replace("0", "2"), "a cut response is ended"
    # Between two responses stands what the template itself writes there.
    messages = [("user", "a"), ("assistant", "go to shelf 1"), ("user", "turn 0: you go to shelf 0.")]
    assert rendered(prompter, messages).endswith("go to shelf 1<|im_end|>" + following)
    for row in rows_of(episode, 0, "conversation"):
        assert [row.tokens[p] for p in row.positions] == [row.teacher_tokens[p] for p in row.teacher_positions]
        assert qwen3.decode(row.tokens).count("<think>") == 3


@pytest.mark.slow
@pytest.mark.network
def test_qwen3_windowed(qwen3: Any) -> None:
    prompter, episode = bound(tokenizer=qwen3, history="windowed"), an_episode()
    play_on(prompter, episode, ANSWERS)
    for turn in episode.turns:
        student, teacher = text_of(prompter, turn.prompt), text_of(prompter, turn.teacher_prompt)
        assert teacher == f"<|im_start|>system\n{SKILL}<|im_end|>\n{student}"
        assert student.startswith("<|im_start|>user\n")
        assert student.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


@pytest.mark.slow
@pytest.mark.network
def test_qwen3_thinks(qwen3: Any) -> None:
    prompter, episode = bound(tokenizer=qwen3, enable_thinking=True), an_episode()
    play_on(prompter, episode, [f"<think>\nhm\n</think>\n\n{answer}" for answer in ANSWERS])
    for turn in episode.turns:
        assert text_of(prompter, turn.prompt).endswith("<|im_start|>assistant\n")
        assert turn.teacher_prompt is None or text_of(prompter, turn.teacher_prompt).endswith("<|im_start|>assistant\n")
