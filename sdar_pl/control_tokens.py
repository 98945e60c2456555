"""Control tokens: the chat template's are encoded as tokens, those that a text only spells as text.

A tokenizer recognises its added tokens (``<|im_end|>``, ``<think>``) wherever their spelling stands, also in an
observation that quotes it. Here a text is marked before the template sees it, and encoded by a copy of the tokenizer
whose added tokens have a spelling that the text does not contain. Three kinds of text differ:

- data (observations, goals, kinds and ids of tasks, past actions, privileged context): no added token;
- wording (what an environment writes around the data, the configured system message): no special token, but tags that
  are added tokens, such as ``<think>`` in the instructions;
- the template's own text: every added token.

Left out: structure that a template writes as plain text (``[INST]`` where that is no added token), which data can
imitate; added tokens of white space alone, which are vocabulary and control nothing.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from sdar_pl.errors import UserError
from sdar_pl.types import Observation, Task

#: Follows a character of a marked text: the first of an added token's spelling, or the mark itself.
MARK = "\U0010fffd"
#: Private-use characters, one of which spells the copy's added tokens.
SPELLINGS = [chr(code) for code in (*range(0x10FFFC, 0xFFFFF, -1), *range(0xFFFFD, 0xEFFFF, -1))]
#: A pattern that is found nowhere.
NOTHING = r"(?!)"
#: Characters a token of a text that is almost certainly over its limit.
CHARACTERS = 16


class ControlTokens:
    """Marks texts and encodes what a template made of them.

    Example::

        tokens = ControlTokens(tokenizer)
        tokens.encode("<|user|>" + tokens.data("the sign reads <|end|>") + "<|end|>")  # two control tokens

    Args:
        tokenizer: a tokenizer of transformers that is backed by the library tokenizers ("fast").

    Raises ``UserError`` for any other tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        if not hasattr(backend, "to_str"):
            raise UserError(
                f"model.policy.model: {type(tokenizer).__name__} is no fast tokenizer, and with a slow one texts could "
                "become control tokens; use a model with tokenizer.json"
            )
        self._backend = backend
        self._tokens = {t.content: t for t in backend.get_added_tokens_decoder().values() if t.content.strip(" \n\t▁")}
        self._copies: dict[str, Any] = {}
        self._firsts = {content[0] for content in self._tokens} | {MARK}
        special = [content for content, token in self._tokens.items() if token.special]
        self._data = re.compile("|".join([*map(self._first, self._tokens), MARK]), re.DOTALL)
        self._wording = re.compile(f"(?:{'|'.join(map(self._first, special)) or NOTHING})(?!{MARK})", re.DOTALL)
        # Longest first, as the tokenizer finds them.
        whole = "|".join(map(self._whole, sorted(self._tokens, key=len, reverse=True)))
        template = f"(?P<token>{whole or NOTHING})(?!{MARK})"
        self._template = re.compile(template), re.compile(f"{template}|(?P<character>.){MARK}", re.DOTALL)

    def _whole(self, content: str) -> str:
        """A pattern of an added token's spelling."""
        alone = self._tokens[content].single_word
        return rf"(?<!\w){re.escape(content)}(?!\w)" if alone else re.escape(content)

    def _first(self, content: str) -> str:
        """A pattern of the first character of an added token's spelling."""
        return f"{re.escape(content[0])}(?<=(?={self._whole(content)}).)"

    # ------------------------------------------------------------------ marking

    def data(self, text: str) -> str:
        """``text``, marked so that it holds no added token."""
        return self._data.sub(rf"\g<0>{MARK}", text) if self._may_spell(text) else text

    def wording(self, text: str) -> str:
        """``text``, which may hold data, marked so that it holds no special token."""
        return self._wording.sub(rf"\g<0>{MARK}", text) if self._may_spell(text) else text

    def _may_spell(self, text: str) -> bool:
        """Whether a character of ``text`` begins an added token's spelling; in most texts none does."""
        return any(first in text for first in self._firsts)

    def task(self, task: Task) -> Task:
        """The task with its texts marked as data. Its payload stays."""
        return replace(task, id=self.data(task.id), kind=self.data(task.kind), text=self.data(task.text))

    def observation(self, observation: Observation) -> Observation:
        """The observation with its texts marked as data."""
        if not self._may_spell("\n".join([observation.text, *observation.admissible])):
            return observation
        admissible = tuple(map(self.data, observation.admissible))
        return replace(observation, text=self.data(observation.text), admissible=admissible)

    # ------------------------------------------------------------------ encoding

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        """The tokens of a template's text around marked ones; without marks, what the tokenizer itself gives.

        Of a text whose beginning has more than ``limit`` tokens already, those of the beginning may be all.
        """
        size = CHARACTERS * limit if limit else len(text)
        while size < len(text):
            tokens = self._encode(text[:size])
            if limit is not None and len(tokens) > limit:
                return tokens
            size *= CHARACTERS
        return self._encode(text)

    def _encode(self, text: str) -> list[int]:
        spelling = next((s for s in SPELLINGS if s not in text), None)
        if spelling is None:
            raise UserError("data.environment: a text holds every private-use character; no mark is left for it")
        swap = self._template[MARK in text]
        spelled = swap.sub(lambda match: self._spelled(match["token"], spelling) or match["character"], text)
        known = spelled.encode("utf-8", "replace").decode()  # a lone surrogate is no text: "?"
        tokens: list[int] = self._copy(spelling).encode(known, add_special_tokens=False).ids
        return tokens

    @staticmethod
    def _spelled(content: str | None, spelling: str) -> str:
        return f"{content[0]}{spelling}{content[1:]}" if content else ""

    def _copy(self, spelling: str) -> Any:
        """The tokenizer with ``spelling`` after the first character of every added token; their ids are the same.

        Also the model's vocabulary spells them so: a unigram model would choose ``</s>`` for a text that quotes it.
        """
        if spelling not in self._copies:
            from tokenizers import Tokenizer

            parts = json.loads(self._backend.to_str())
            names = {content: self._spelled(content, spelling) for content in self._tokens}
            parts["truncation"] = parts["padding"] = parts["post_processor"] = None
            for token in parts["added_tokens"]:
                token["content"] = names.get(token["content"], token["content"])
            rename(parts["model"], names)
            copy = Tokenizer.from_str(json.dumps(parts))
            for content, name in names.items():
                if copy.token_to_id(name) != self._backend.token_to_id(content):
                    raise UserError(
                        f"model.policy.model: the tokenizer's added token {content!r} cannot be told from text that "
                        "spells it; use another model"
                    )
            self._copies[spelling] = copy
        return self._copies[spelling]


def rename(model: dict[str, Any], names: dict[str, str]) -> None:
    """Rename tokens in the model of a tokenizer.json, and drop the merges that make or use them."""
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(token, token): id for token, id in vocabulary.items()}
    elif isinstance(vocabulary, list):
        model["vocab"] = [[names.get(token, token), score] for token, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if model.get("merges"):
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [pair for pair in pairs if not {*pair, "".join(pair)} & names.keys()]
