"""Prompter: an episode → the student's and the teacher's prompt tokens, through the model's own chat template.

The token contract (docs/architecture.md): sampled tokens are never decoded and encoded again. The first prompt is
rendered whole. In a ``conversation`` every later prompt is only the text that the template puts between two responses,
so that the sampled tokens stay. The teacher's prompt is the student's plus the privileged context as a system message.
No prompt is truncated: one over its limit is an error. Texts never become control tokens (control_tokens.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from sdar_pl.checks import at_least
from sdar_pl.control_tokens import CHARACTERS, ControlTokens
from sdar_pl.environments.base import Environment
from sdar_pl.errors import UserError
from sdar_pl.types import Episode, Message

#: Stands for a response while the text around it is rendered.
RESPONSE = "⟦response⟧"


class TooLongError(UserError):
    """A prompt is over its limit."""


class Prompter:
    """Renders the prompts of turns for one tokenizer.

    Args:
        history: "conversation" (append-only chat, one row an episode) or "windowed" (the paper: each prompt is
            rebuilt from the last ``window`` steps, one row a turn).
        window: number of past steps in a ``windowed`` prompt, at least 0.
        system: the student's system message; null: the template's own, which the teacher then reads as well.
        enable_thinking: let the model reason before it answers (Qwen3); the chat template must know it.
        placement: the message that holds the privileged context: "system", or "user" for templates without a system
            message.
        max_prompt_tokens: limit of the student's prompt, in tokens.
        max_teacher_tokens: limit of the teacher's prompt, in tokens.
    """

    def __init__(
        self,
        history: Literal["conversation", "windowed"] = "conversation",
        window: int = 2,
        system: str | None = None,
        enable_thinking: bool = False,
        placement: Literal["system", "user"] = "system",
        max_prompt_tokens: int = 2048,
        max_teacher_tokens: int = 4096,
    ) -> None:
        self.history, self.window = history, at_least("data.prompter.window", window, 0)
        self.system, self.enable_thinking, self.placement = system, enable_thinking, placement
        self.max_prompt_tokens = at_least("data.prompter.max_prompt_tokens", max_prompt_tokens, 1)
        self.max_teacher_tokens = at_least("data.prompter.max_teacher_tokens", max_teacher_tokens, 1)
        self.tokenizer: Any = None
        self._tokens: ControlTokens
        self._between: tuple[str, str] = ("", "")
        self._ends: frozenset[int] = frozenset()  # special tokens with which the template ends a response
        self._default_system: str | None = None  # rendered on first use, as is
        self._end: int | None = None  # the token that ends a written response, and a prompt before one
        self._before = ""

    def bind(self, tokenizer: Any) -> None:
        """Use this tokenizer's chat template.

        Raises ``UserError`` for a template that cannot render the history, and for a slow tokenizer.
        """
        self.tokenizer, self._tokens = tokenizer, ControlTokens(tokenizer)
        self._default_system = self._end = None
        if self.enable_thinking:
            self._refuse_unknown_thinking()
        if self.history == "conversation":
            self._between = self._reply_frame()
            self._ends = frozenset(self._tokens.encode(self._between[0])) & frozenset(tokenizer.all_special_ids)

    # ------------------------------------------------------------------ one turn

    def prompts(self, environment: Environment, episode: Episode) -> tuple[list[int], list[int] | None]:
        """The next turn's new prompt tokens: (the student's, the teacher's or None where they are the same).

        Raises ``UserError`` for a prompt over its limit.
        """
        turns, data = episode.turns, self._tokens
        if self.history == "conversation" and turns:
            return self._reply(environment, episode), None  # the first turn's prompt holds the context already
        task, first = data.task(episode.task), data.observation(episode.first)
        if self.history == "conversation":
            content = environment.opening(task, first)
        else:
            history = [(data.data(turn.action), data.observation(turn.observation)) for turn in turns]
            content = environment.window(task, first, history, self.window)
        student = self._prompt(content, episode.student_context, "max_prompt_tokens", episode)
        if episode.context in ("", episode.student_context):
            return student, None
        return student, self._prompt(content, episode.context, "max_teacher_tokens", episode)

    def reread(self, environment: Environment, episode: Episode) -> None:
        """Render the teacher's prompt of every turn again, from the episode's present ``context``.

        The student's prompts stay. Raises ``TooLongError`` for a prompt over the teacher's limit; the teacher's
        prompts are then incomplete.
        """
        for number, turn in enumerate(episode.turns):
            past = replace(episode, turns=episode.turns[:number])
            if number == 0 or self.history == "windowed":
                turn.teacher_prompt = self.prompts(environment, past)[1]
        first = episode.turns[0].teacher_prompt
        if self.history == "conversation" and first is not None:
            later = [token for turn in episode.turns[1:] for token in turn.prompt]
            responses = [token for turn in episode.turns[:-1] for token in turn.response]
            longest = first + later + responses
            self._check(len(longest), "max_teacher_tokens", episode)

    def question(self, text: str, episode: Episode) -> list[int]:
        """The prompt of a chat that begins with a text about an episode. Raises ``TooLongError`` over the limit."""
        return self._prompt(self._tokens.data(text), "", "max_prompt_tokens", episode)

    def _prompt(self, content: str, context: str, key: str, episode: Episode) -> list[int]:
        text, limit = self._render(self._messages(content, context, self.system), generate=True), getattr(self, key)
        tokens = self._tokens.encode(text, limit)
        self._check(len(tokens), key, episode, "at least " if len(text) > CHARACTERS * limit else "")
        return tokens

    def _messages(self, content: str, context: str, system: str | None) -> list[Message]:
        content, context = self._tokens.wording(content), self._tokens.data(context)
        system = self._tokens.wording(system) if system else None
        if context and self.placement == "system":
            system = system or self._own_system()
            system = f"{system}\n\n{context}" if system else context
        elif context:
            content = f"{context}\n\n{content}"
        return [*([Message("system", system)] if system else []), Message("user", content)]

    def _reply(self, environment: Environment, episode: Episode) -> list[int]:
        last = episode.turns[-1]
        return self._after(last.response, environment.reply(self._tokens.observation(last.observation)))

    def _after(self, response: Sequence[int], reply: str) -> list[int]:
        before, after = self._between
        tokens = self._tokens.encode(before + self._tokens.wording(reply) + after, self.max_prompt_tokens)
        # A response that ended by itself holds the template's end-of-turn token already. Some templates write
        # characters before that token.
        ended = response[-1]
        return tokens[tokens.index(ended) + 1 :] if ended in self._ends else tokens

    # ------------------------------------------------------------------ demonstrations

    def response(self, text: str) -> list[int]:
        """The tokens of a written response, as a policy would sample them: the text's and the end token."""
        if self._end is None:
            self._end, self._before = self._end_token(), self._render([Message("user", "x")], generate=True)
        text, before = self._tokens.wording(text), self._tokens.encode(self._before)
        # Some tokenizers begin a text with a space that a response behind a prompt does not have.
        behind = self._tokens.encode(self._before + text)
        alone = behind[: len(before)] != before
        return [*(self._tokens.encode(text) if alone else behind[len(before) :]), self._end]

    def conversation(self, messages: Sequence[Message]) -> list[tuple[list[int], list[int]]]:
        """Of each assistant message: the prompt tokens that are new before it, and its own tokens, as in a rollout.

        Args:
            messages: a system message or none (then ``system``), and user and assistant messages in turn.
        """
        own = messages[0].role == "system"
        system, chat = (messages[0].content, messages[1:]) if own else (self.system, messages)
        turns: list[tuple[list[int], list[int]]] = []
        for asked, answer in zip(chat[::2], chat[1::2], strict=True):
            if turns:
                prompt = self._after(turns[-1][1], asked.content)
            else:
                prompt = self._tokens.encode(self._render(self._messages(asked.content, "", system), generate=True))
            turns.append((prompt, self.response(answer.content)))
        return turns

    # ------------------------------------------------------------------ the template

    def _render(self, messages: Sequence[Message], *, generate: bool, thinking: bool | None = None) -> str:
        thinking = self.enable_thinking if thinking is None else thinking
        chat = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    chat, tokenize=False, add_generation_prompt=generate, enable_thinking=thinking
                )
            )
        except Exception as error:  # jinja raises what the template's author chose
            raise UserError(
                f"data.prompter.placement: the chat template refuses the messages ({error}); use placement: user "
                "for a template without a system message"
            ) from error

    def _own_system(self) -> str:
        """The system message that the template adds where none is given; empty for a template that adds none."""
        if self._default_system is None:
            user = Message("user", "x")
            rendered = self._render([Message("system", RESPONSE), user], generate=True)
            before, marker, after = rendered.partition(RESPONSE)
            if not marker:
                raise UserError(
                    "data.prompter.placement: the chat template leaves out the system message; use placement: user"
                )
            plain = self._render([user], generate=True)
            fits = len(plain) > len(before + after) and plain.startswith(before) and plain.endswith(after)
            self._default_system = plain[len(before) : len(plain) - len(after)] if fits else ""
        return self._default_system

    def _reply_frame(self) -> tuple[str, str]:
        """The template's text from the end of a response to a user message, and from there to the next response."""
        chat = [Message("user", "x"), Message("assistant", RESPONSE), Message("user", RESPONSE)]
        text = self._render(chat, generate=True)
        pieces = text.split(RESPONSE)
        if len(pieces) != 3:
            raise UserError("model.policy.model: this chat template rewrites earlier messages; use history: windowed")
        return pieces[1], pieces[2]

    def _end_token(self) -> int:
        """The token with which the template ends a response; the tokenizer's own where that is plain text.

        Raises ``UserError`` where there is neither.
        """
        text = self._render([Message("user", "x"), Message("assistant", RESPONSE)], generate=False)
        after = self._tokens.encode(text.rpartition(RESPONSE)[2])
        special = frozenset(self.tokenizer.all_special_ids)
        end = next((token for token in after if token in special), self.tokenizer.eos_token_id)
        if end is None:
            raise UserError("model.policy.model: the template ends a response with no token; use an instruct model")
        return int(end)

    def _refuse_unknown_thinking(self) -> None:
        """Raises ``UserError`` for a template that renders the same with and without ``enable_thinking``."""
        with_it, without = (self._render([Message("user", "x")], generate=True, thinking=on) for on in (True, False))
        if with_it == without:
            raise UserError(
                "data.prompter.enable_thinking: true, but the model's chat template does not know it; set it to false"
            )

    def _check(self, size: int, key: str, episode: Episode, least: str = "") -> None:
        limit = getattr(self, key)
        if size > limit:
            raise TooLongError(
                f"data.prompter.{key}: the prompt of task {episode.task.id} has {least}{size} tokens, the limit is "
                f"{limit}; raise it, show less history, or use shorter skills (nothing is truncated)"
            )

    def full(self, tokens: list[int], episode: Episode) -> bool:
        """Whether a conversation has outgrown the student's or the teacher's limit. The episode then ends (overflow).

        ``tokens`` is the student's next prompt from the conversation's beginning.
        """
        first = episode.turns[0]
        more = 0 if first.teacher_prompt is None else len(first.teacher_prompt) - len(first.prompt)
        return self.history == "conversation" and (
            len(tokens) > self.max_prompt_tokens or len(tokens) + more > self.max_teacher_tokens
        )

    def decode(self, response: list[int]) -> str:
        """The text of a response for the environment, without the template's special tokens."""
        return str(self.tokenizer.decode(response, skip_special_tokens=True))
