"""ChatFile: demonstrations from a file of conversations in the format that others write.

One JSON object a line, other keys are ignored::

    {"messages": [{"role": "system", "content": "…"}, {"role": "user", "content": "…"}, {"role": "assistant", …}]}

A system message or none, then user and assistant in turn, the assistant last. Left out: tools, pictures, several
answers to choose from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sdar_pl.environments.base import Environment
from sdar_pl.errors import UserError
from sdar_pl.prompts import Prompter
from sdar_pl.runtime.words import shown
from sdar_pl.sampling.tasks import task_order
from sdar_pl.skills.providers import ContextProvider
from sdar_pl.types import Episode, Message, Observation, Task, Turn
from sdar_pl.warmup.demonstrations import Demonstration, Demonstrations

KEY = "data.demonstrations.path"
ROLES = ("system", "user", "assistant")
#: kind of the tasks of a file's conversations
KIND = "chat"


class ChatFile(Demonstrations):
    """Conversations of a JSONL file. Each pass through the file has a random order of its own.

    Args:
        path: the file.

    Raises ``UserError`` with the line's number for a line that holds no such conversation.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path).expanduser()
        self.conversations: list[tuple[int, list[Message]]] = []  # (number of the line, messages)
        self.digest = ""
        self.longest = (0, 0)  # tokens, and the number of the line

    def bind(
        self,
        prompter: Prompter,
        environment: Environment | None,
        split: str,
        context: ContextProvider,
        max_turns: int,
    ) -> None:
        """Read the file and encode each conversation once."""
        self.prompter = prompter
        self.conversations, self.digest = read(self.path)
        self.longest = max((self._size(line, messages), line) for line, messages in self.conversations)

    def draw(self, groups: Sequence[int], count: int, epoch: int, seed: int) -> Iterator[Demonstration]:
        order = task_order(len(self.conversations), epoch, count, seed)
        for group in groups:
            line, messages = self.conversations[order[group]]
            asked = [message.content for message in messages if message.role == "user"]
            answers = [message.content for message in messages if message.role == "assistant"]
            episode = Episode(Task(f"line {line}", KIND, ""), group, 0, Observation(asked[0]))
            replies = [*map(Observation, asked[1:]), Observation("", done=True)]
            encoded = self.prompter.conversation(messages)
            for (prompt, response), text, reply in zip(encoded, answers, replies, strict=True):
                episode.turns.append(Turn(prompt, response, [0.0] * len(response), text, text, True, reply))
            yield Demonstration(episode)

    def refuse_longer_than(self, limit: int) -> None:
        tokens, line = self.longest
        if tokens > limit:
            raise UserError(
                f"{KEY}: {self.path}, line {line}: {tokens} tokens, more than the {limit} that this model reads; "
                "shorten the conversation or leave it out (nothing is truncated)"
            )

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), KEY: f"{len(self.conversations)} conversations, {self.digest}"}

    def _size(self, line: int, messages: Sequence[Message]) -> int:
        """Tokens of a conversation. Raises ``UserError`` for one that no rollout could have."""
        turns, tokens = self.prompter.conversation(messages), 0
        if self.prompter.history == "windowed" and len(turns) > 1:
            raise UserError(
                f"{KEY}: {self.path}, line {line}: {len(turns)} assistant messages; with data.prompter.history: "
                "windowed a line is one turn; write each turn as its own line, or set history to conversation"
            )
        for number, (prompt, response) in enumerate(turns, 1):
            tokens += len(prompt)
            if tokens > self.prompter.max_prompt_tokens:
                raise UserError(
                    f"{KEY}: {self.path}, line {line}: the prompt of answer {number} has {tokens} tokens, "
                    f"data.prompter.max_prompt_tokens is {self.prompter.max_prompt_tokens}; raise it, or leave the "
                    "conversation out (nothing is truncated)"
                )
            tokens += len(response)
        return tokens


def read(path: Path) -> tuple[list[tuple[int, list[Message]]], str]:
    """The conversations of a file with the numbers of their lines, and a hash of the file.

    Raises ``UserError`` for a file that cannot be read, and for a bad line.
    """
    found: list[tuple[int, list[Message]]] = []
    digest, number = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                digest.update(line)
                if text := line.decode("utf-8-sig").strip():
                    found.append((number, messages_of(text)))
    except OSError as error:
        raise UserError(f"{KEY}: {path}: {error.strerror}; name a JSONL file of conversations") from error
    except RecursionError:
        raise UserError(f"{KEY}: {path}, line {number}: nested too deeply; mend the line") from None
    except ValueError as error:
        raise UserError(f"{KEY}: {path}, line {number}: {reason(error)}; mend or remove the line") from error
    if not found:
        raise UserError(f"{KEY}: {path} holds no conversation; name a JSONL file with one on each line")
    return found, digest.hexdigest()[:8]


def messages_of(text: str) -> list[Message]:
    """The messages of one line. Raises ``ValueError`` with the reason."""
    content = json.loads(text)
    messages = content.get("messages") if isinstance(content, dict) else None
    if not isinstance(messages, list):
        raise ValueError('no {"messages": […]}')
    chat = [message_of(number, message) for number, message in enumerate(messages, 1)]
    if not any(message.role == "assistant" for message in chat):
        raise ValueError("no assistant message, so that there is nothing to learn")
    first = int(chat[0].role == "system")
    for number, message in enumerate(chat[first:], first + 1):
        wanted = ("user", "assistant")[(number - first - 1) % 2]
        if message.role != wanted:
            raise ValueError(
                f"message {number} is of {message.role}, not of {wanted}: after a system message or none, user and "
                "assistant must take turns"
            )
    if chat[-1].role != "assistant":
        raise ValueError(f"the last message is of {chat[-1].role}; must be of the assistant")
    return chat


def message_of(number: int, message: Any) -> Message:
    """One message. Raises ``ValueError`` with the reason."""
    role, content = (message.get(name) for name in ("role", "content")) if isinstance(message, dict) else (None, None)
    if role not in ROLES:
        raise ValueError(f"message {number}: role {shown(str(role), 40)!r}; must be one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise ValueError(f"message {number}: content is of {type(content).__name__}; must be a text")
    return Message(role, content)


def reason(error: ValueError) -> str:
    """Why a line cannot be read."""
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON ({error.msg} at character {error.pos + 1})"
    return str(error)
