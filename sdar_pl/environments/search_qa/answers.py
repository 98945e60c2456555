"""Actions and answers: how a model's output is read, and how an answer is scored against the gold answers.

``parse_action``, ``normalize_answer`` and ``exact_match`` reproduce the reference implementation's figures on every
recorded case. They differ from it where its figures hold no case: what stands inside ``<information>``, in a passage
or in a copy of one, is never an action and never an answer.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_SEARCH = re.compile(r"<search>(.*?)</search>", re.IGNORECASE | re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL)
#: from the first opening tag to the last closing one, or to the end: a passage can close the block that quotes it
_INFORMATION = re.compile(r"<information>(?:.*</information>|.*)", re.IGNORECASE | re.DOTALL)
_THINK = re.compile(r"<think>.*?(?:</think>|\Z)", re.IGNORECASE | re.DOTALL)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_TAG = re.compile(r"<\s*(/?)\s*(think|search|answer|information)\s*>", re.IGNORECASE)


def parse_action(text: str) -> tuple[str, bool]:
    """Model output → (action, whether the output kept to the format).

    The action is ``<search>query</search>`` of the first complete search, else ``<answer>words</answer>`` of the first
    complete answer, else empty. The output is valid if it opens exactly one of the two tags, once, and not inside
    ``<think>``. Tags may be in any case.
    """
    text = _INFORMATION.sub("", text)
    search, answer = _SEARCH.search(text), _ANSWER.search(text)
    block, tag = (search, "search") if search else (answer, "answer")
    if block is None:
        return "", False
    lowered = text.lower()
    once = lowered.count("<search>") + lowered.count("<answer>") == 1
    inside = any(thought.start() <= block.start() < thought.end() for thought in _THINK.finditer(text))
    return f"<{tag}>{block[1].strip()}</{tag}>", once and not inside


def normalize_answer(text: str) -> str:
    """Lower case without punctuation, articles and needless white space (SQuAD; Rajpurkar et al. 2016)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(text: str, gold: str | Sequence[str]) -> tuple[str | None, float]:
    """(the last answer of ``text`` or None, 1.0 if it equals a gold answer after normalisation, else 0.0).

    ``text`` may be one response or a whole transcript; ``<information>`` blocks are left out.
    """
    answers = _ANSWER.findall(_INFORMATION.sub("", text))
    if not answers:
        return None, 0.0
    answer = answers[-1].strip()
    return answer, float(normalize_answer(answer) in map(normalize_answer, golds(gold)))


def f1(answer: str, gold: str | Sequence[str]) -> float:
    """Highest F1 of the normalised words of ``answer`` with those of a gold answer, 0–1 (SQuAD)."""
    return max((_f1(normalize_answer(answer).split(), normalize_answer(one).split()) for one in golds(gold)), default=0)


def substring_match(answer: str, gold: str | Sequence[str]) -> float:
    """1.0 if a normalised gold answer, not empty, is a part of the normalised ``answer``, else 0.0."""
    found = normalize_answer(answer)
    return float(any(part and part in found for part in map(normalize_answer, golds(gold))))


def harmless(text: str) -> str:
    """A passage's text with square brackets for the angle brackets of our tags, so that none is read as one."""
    return _TAG.sub(lambda tag: f"[{tag[1]}{tag[2].lower()}]", text)


def golds(gold: str | Sequence[str]) -> list[str]:
    """Gold answers as a list: a single text is one answer."""
    return [gold] if isinstance(gold, str) else list(gold)


def _f1(found: list[str], wanted: list[str]) -> float:
    if not found or not wanted:
        return float(found == wanted)
    shared = sum((Counter(found) & Counter(wanted)).values())
    return 2 * shared / (len(found) + len(wanted))
