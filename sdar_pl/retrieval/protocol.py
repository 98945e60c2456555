"""The wire format of Search-R1's retrieval servers, for our client and our server.

``POST /retrieve`` takes ``{"queries": […], "topk": 3, "return_scores": true}``, or ``"query": "…"`` for one. The
answer is ``{"result": [[…], …]}`` with a list for each query, whose entries are ``{"document": {"id", "contents"},
"score"}`` with scores, and ``{"id", "contents"}`` without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sdar_pl.retrieval.base import Passage, from_contents


class WrongAnswerError(Exception):
    """An answer that does not follow the protocol. The message names what is wrong."""


def entry(passage: Passage, scored: bool) -> dict[str, Any]:
    """A passage as an entry of the answer."""
    document = {"id": passage.id, "title": passage.title, "text": passage.text, "contents": passage.contents}
    return {"document": document, "score": passage.score} if scored else document


def passages_of(answer: Any, queries: int) -> list[list[Passage]]:
    """The lists of passages of an answer, one for each query. Raises ``WrongAnswerError``."""
    result = answer.get("result") if isinstance(answer, dict) else None
    if not isinstance(result, list):
        raise WrongAnswerError("no list 'result'")
    if queries == 1 and not all(isinstance(found, list) for found in result):
        result = [result]  # some servers answer a single query with one flat list
    if len(result) != queries or not all(isinstance(found, list) for found in result):
        raise WrongAnswerError(f"{len(result)} lists of passages for {queries} queries")
    return [[_passage(one) for one in found] for found in result]


def _passage(one: Any) -> Passage:
    document = one.get("document", one) if isinstance(one, dict) else one
    score = one.get("score", 0.0) if isinstance(one, dict) else 0.0
    if isinstance(document, str):
        return from_contents("", document)
    if not isinstance(document, dict) or not isinstance(score, (int, float)):
        raise WrongAnswerError("a passage is no object")
    id, contents = str(document.get("id", "")), document.get("contents")
    if isinstance(contents, str):
        return from_contents(id, contents, float(score))
    title, text = document.get("title", ""), document.get("text")
    if not isinstance(text, str) or not isinstance(title, str):
        raise WrongAnswerError("a passage has neither contents nor text")
    return Passage(id, title, text, float(score))


def request_of(queries: Sequence[str], topk: int) -> dict[str, Any]:
    """The body of a request for several queries."""
    return {"queries": list(queries), "topk": topk, "return_scores": True}
