"""Episodes as tokens: what the student reads, what the teacher reads, and what neither may do to a response."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.chats import ANSWERS, SKILL, an_episode, bound, play_on, rendered, text_of
from helpers.models import TEMPLATE, make_tokenizer
from helpers.worlds import Echo

from sdar_pl.batch import rows_of
from sdar_pl.environments.household import Household
from sdar_pl.errors import UserError
from sdar_pl.prompts import Prompter
from sdar_pl.skills.providers import SkillContext
from sdar_pl.types import Episode, Observation, Turn

#: like Qwen2.5's: a system message of its own where none is given
WITH_DEFAULT = (
    "{% if messages[0]['role'] != 'system' %}<|system|>You are Qwen.<|end|>\n{% endif %}"
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
#: like Gemma's: refuses a system message
REFUSING = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + TEMPLATE
)
#: shows no system message at all
SILENT = TEMPLATE.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
#: like Llama 2's: a space before the end of a turn
SPACED = TEMPLATE.replace("{{ m['content'] }}<|end|>", "{{ m['content'] }}{{ ' ' if m['role'] == 'assistant' }}<|end|>")
#: like Qwen3's: an empty thought in the prompt where thinking is off
THINKING = TEMPLATE.replace(
    "<|assistant|>{% endif %}", "<|assistant|>{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
#: forgets what was said before the last user message
FORGETFUL = "{% for m in messages[-1:] %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}<|assistant|>"


# ---------------------------------------------------------------------- student and teacher


@pytest.mark.parametrize("history", ["conversation", "windowed"])
@pytest.mark.parametrize("template", [TEMPLATE, WITH_DEFAULT])
def test_responses_are_the_same_tokens_for_both(history: Any, template: str) -> None:
    prompter, episode = bound(template, history=history), an_episode()
    play_on(prompter, episode, ANSWERS)
    rows = rows_of(episode, 0, history)
    assert len(rows) == (1 if history == "conversation" else 3)
    for row in rows:
        student = [row.tokens[p] for p in row.positions]
        assert student == [row.teacher_tokens[p] for p in row.teacher_positions]
        numbers = dict.fromkeys(row.turns)
        assert student == [token for n in numbers for token in episode.turns[n].response]
        # What stands between the responses differs at one place only: the system message.
        assert text_of(prompter, row.teacher_tokens).count(SKILL) == 1
        assert SKILL not in text_of(prompter, row.tokens)


@pytest.mark.parametrize("history", ["conversation", "windowed"])
def test_the_teacher_reads_one_message_more(history: Any) -> None:
    prompter, episode = bound(history=history), an_episode()
    play_on(prompter, episode, ANSWERS)
    before = prompter.tokenizer.encode(f"<|system|>{SKILL}<|end|>", add_special_tokens=False)
    for number, turn in enumerate(episode.turns):
        if history == "conversation" and number:
            assert not turn.teacher_prompt
        else:
            assert turn.teacher_prompt == [*before, *turn.prompt]


def test_every_windowed_turn_has_the_context() -> None:
    prompter, episode = bound(history="windowed", window=1), an_episode()
    play_on(prompter, episode, ANSWERS)
    assert len(episode.turns) == 3
    for number, turn in enumerate(episode.turns):
        teacher, student = text_of(prompter, turn.teacher_prompt), text_of(prompter, turn.prompt)
        assert teacher.startswith(f"<|system|>{SKILL}<|end|>")
        assert f"step {number}" in student
        # The window shows one step; the current observation is never lost, for either.
        assert (f"turn {number - 1}:" in student) is (number > 0)
        assert (f"turn {number - 1}:" in teacher) is (number > 0)
        assert f"turn {number - 2}:" not in student


def test_the_templates_own_system_message_stays() -> None:
    prompter, episode = bound(WITH_DEFAULT), an_episode()
    play_on(prompter, episode, ANSWERS[:1])
    student, teacher = (text_of(prompter, side) for side in (episode.turns[0].prompt, episode.turns[0].teacher_prompt))
    assert student.startswith("<|system|>You are Qwen.<|end|>")
    assert teacher == student.replace("You are Qwen.", f"You are Qwen.\n\n{SKILL}")


@pytest.mark.parametrize("template", [TEMPLATE, WITH_DEFAULT])
def test_a_system_message_of_ones_own(template: str) -> None:
    prompter, episode = bound(template, system="Be brief."), an_episode()
    play_on(prompter, episode, ANSWERS[:1])
    student, teacher = (text_of(prompter, side) for side in (episode.turns[0].prompt, episode.turns[0].teacher_prompt))
    assert student.startswith("<|system|>Be brief.<|end|>")
    assert "You are Qwen" not in student
    assert teacher == student.replace("Be brief.", f"Be brief.\n\n{SKILL}")


def test_placement_user() -> None:
    prompter, episode = bound(REFUSING, placement="user"), an_episode()
    play_on(prompter, episode, ANSWERS)
    student, teacher = (text_of(prompter, side) for side in (episode.turns[0].prompt, episode.turns[0].teacher_prompt))
    assert "system" not in student + teacher
    assert teacher == student.replace("<|user|>", f"<|user|>{SKILL}\n\n")
    rows_of(episode, 0, "conversation")


def test_no_context_no_teacher() -> None:
    for episode in (an_episode(""), an_episode(SKILL, SKILL)):
        prompter = bound()
        play_on(prompter, episode, ANSWERS)
        assert not any(turn.teacher_prompt for turn in episode.turns)
        assert (SKILL in text_of(prompter, episode.turns[0].prompt)) is bool(episode.context)


def test_the_student_never_reads_a_skill() -> None:
    """Real skills, a real game, both histories; unless the student is shown them on purpose."""
    household, skills = Household(size="tiny"), SkillContext("household")
    for number, task in enumerate(household.tasks("train")[:6]):
        context = skills.provide(task)
        lines = [line for line in context.split("\n") if len(line) > 20]
        assert len(lines) > 1
        for history in ("conversation", "windowed"):
            prompter = bound(history=history)
            session = household.session(task)
            episode = Episode(task, 0, 0, session.reset(), context=context)
            play_on(prompter, episode, household.expert_plan(task)[:4], world=household)
            for turn in episode.turns:
                assert not any(line in text_of(prompter, turn.prompt) for line in lines), number
            assert all(line in text_of(prompter, episode.turns[0].teacher_prompt) for line in lines)


# ---------------------------------------------------------------------- conversations


@pytest.mark.parametrize("template", [TEMPLATE, WITH_DEFAULT, SPACED])
def test_a_conversation_is_what_the_template_would_write(template: str) -> None:
    prompter, episode = bound(template), an_episode("")
    play_on(prompter, episode, ANSWERS)
    student, _ = prompter.prompts(Echo(), episode)
    whole = [token for turn in episode.turns for token in (*turn.prompt, *turn.response)] + student
    messages = [("user", Echo().opening(episode.task, episode.first))]
    for turn in episode.turns:
        messages += [("assistant", turn.text), ("user", Echo().reply(turn.observation))]
    wanted = rendered(prompter, messages)
    if template == SPACED:  # the response ended where the policy ended it
        wanted = wanted.replace(" <|end|>", "<|end|>")
    assert text_of(prompter, whole) == wanted
    if template != SPACED:
        assert whole == prompter.tokenizer.encode(wanted, add_special_tokens=False)


@pytest.mark.parametrize("template", [TEMPLATE, WITH_DEFAULT, SPACED])
def test_a_response_that_was_cut_is_ended_by_the_next_prompt(template: str) -> None:
    prompter, end = bound(template), make_tokenizer().eos_token_id
    ended, cut = an_episode(""), an_episode("")
    play_on(prompter, ended, ANSWERS[:2])
    play_on(prompter, cut, ANSWERS[:2], end=False)
    assert end not in cut.turns[0].response
    filling = prompter.tokenizer.encode(" " if template == SPACED else "", add_special_tokens=False)
    assert cut.turns[1].prompt == [*filling, end, *ended.turns[1].prompt]
    assert ended.turns[1].prompt[0] != end


def test_sampled_tokens_are_never_encoded_anew() -> None:
    """A response in tokens that encoding its text would not give stays as it was sampled."""
    prompter, episode = bound(), an_episode()
    odd = [prompter.tokenizer.convert_tokens_to_ids(letter) for letter in "shelf"]
    assert prompter.tokenizer.encode("shelf", add_special_tokens=False) != odd
    prompt, teacher = prompter.prompts(Echo(), episode)
    observation = Observation("go on")
    episode.turns.append(Turn(prompt, odd, [0.0] * 5, "shelf", "shelf", True, observation, teacher))
    play_on(prompter, episode, ANSWERS[:1])
    (row,) = rows_of(episode, 0, "conversation")
    assert row.tokens[len(prompt) : len(prompt) + 5] == odd
    assert row.teacher_tokens[len(teacher) : len(teacher) + 5] == odd


def test_decode_shows_what_is_said_without_the_end() -> None:
    prompter = bound()
    tokens = prompter.tokenizer.encode("<action>go to shelf 1</action><|end|>", add_special_tokens=False)
    assert prompter.decode(tokens) == "<action>go to shelf 1</action>"


# ---------------------------------------------------------------------- after play


@pytest.mark.parametrize("history", ["conversation", "windowed"])
def test_reread_is_what_would_have_been_read(history: Any) -> None:
    prompter = bound(history=history)
    before, after = an_episode(SKILL), an_episode("")
    play_on(prompter, before, ANSWERS)
    play_on(prompter, after, ANSWERS)
    after.context = SKILL
    prompter.reread(Echo(), after)
    assert after.turns == before.turns


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize("history", ["conversation", "windowed"])
@pytest.mark.parametrize("key", ["max_prompt_tokens", "max_teacher_tokens"])
def test_over_the_limit(history: Any, key: str) -> None:
    episode = an_episode()
    student, teacher = bound(history=history).prompts(Echo(), episode)
    size = len(student if key == "max_prompt_tokens" else teacher)
    bound(history=history, **{key: size}).prompts(Echo(), episode)
    with pytest.raises(UserError, match=rf"data\.prompter\.{key}: .*task t/1 has {size} tokens.*limit is {size - 1}"):
        bound(history=history, **{key: size - 1}).prompts(Echo(), episode)


@pytest.mark.parametrize("template", [REFUSING, SILENT])
def test_templates_without_a_system_message(template: str) -> None:
    prompter = bound(template)
    prompter.prompts(Echo(), an_episode(""))  # all is well where there is no context
    with pytest.raises(UserError, match=r"data\.prompter\.placement: .*placement: user"):
        prompter.prompts(Echo(), an_episode())


def test_templates_that_rewrite_the_past_need_windows() -> None:
    with pytest.raises(UserError, match="history: windowed"):
        bound(FORGETFUL)
    bound(FORGETFUL, history="windowed").prompts(Echo(), an_episode(""))


def test_a_negative_window() -> None:
    with pytest.raises(UserError, match=r"data\.prompter\.window"):
        Prompter(window=-1)


# ---------------------------------------------------------------------- enable_thinking


@pytest.mark.parametrize("history", ["conversation", "windowed"])
def test_a_model_may_think_before_it_answers(history: Any) -> None:
    """The teacher's prompt ends as the student's does, in every turn."""
    assert THINKING != TEMPLATE
    for thinking, ending in ((False, "<|assistant|><think>\n\n</think>\n\n"), (True, "<|assistant|>")):
        prompter, episode = bound(THINKING, history=history, enable_thinking=thinking), an_episode()
        play_on(prompter, episode, [f"<think>hm</think>{answer}" for answer in ANSWERS])
        for turn in episode.turns:
            assert text_of(prompter, turn.prompt).endswith(ending)
        for row in rows_of(episode, 0, history):
            assert [row.tokens[p] for p in row.positions] == [row.teacher_tokens[p] for p in row.teacher_positions]
            for tokens in (row.tokens[: row.positions[0]], row.teacher_tokens[: row.teacher_positions[0]]):
                assert text_of(prompter, tokens).endswith(ending)


def test_thinking_is_refused_where_the_template_does_not_know_it() -> None:
    with pytest.raises(UserError, match=r"^data\.prompter\.enable_thinking: true, but the model's chat template"):
        bound(enable_thinking=True)
    bound(enable_thinking=False)
