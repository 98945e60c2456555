"""The server's application: Search-R1's protocol over any PassageRetriever. Left out: HTTPS and access rights."""

from __future__ import annotations

import json

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sdar_pl.retrieval.base import PassageRetriever
from sdar_pl.retrieval.protocol import entry

#: bytes of a request's body, queries of a request, and passages for a query
LARGEST_BODY, MOST_QUERIES, MOST_PASSAGES = 2**20, 1024, 100


def application(retriever: PassageRetriever, topk: int = 3, largest_body: int = LARGEST_BODY) -> Starlette:
    """An ASGI application with ``POST /retrieve`` and ``GET /health``.

    Status 413: the body is larger than ``largest_body`` bytes, announced or not. 422: it is no request (protocol.py).
    Both answer ``{"detail": reason}``.

    Args:
        retriever: finds the passages.
        topk: passages for a query of a request that names no number.
        largest_body: in bytes.
    """

    async def health(_: Request) -> Response:
        return _json({"status": "ok"})

    async def retrieve(request: Request) -> Response:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > largest_body:
                return _json({"detail": f"the body is larger than {largest_body} bytes"}, 413)
        try:
            queries, wanted, scored = request_parts(bytes(body), topk)
        except ValueError as error:
            return _json({"detail": str(error)}, 422)
        found = await run_in_threadpool(retriever.retrieve, queries, wanted)
        return _json({"result": [[entry(passage, scored) for passage in passages] for passages in found]})

    return Starlette(routes=[Route("/health", health), Route("/retrieve", retrieve, methods=["POST"])])


def _json(answer: dict[str, object], status: int = 200) -> Response:
    return Response(json.dumps(answer), status, media_type="application/json")


def request_parts(body: bytes, topk: int) -> tuple[list[str], int, bool]:
    """A request's body → (queries, passages for each, whether with scores). Raises ``ValueError``."""
    try:
        row = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("the body is not JSON") from None
    if not isinstance(row, dict):
        raise ValueError("the body is no object")
    queries = row.get("queries", row.get("query"))
    queries = [queries] if isinstance(queries, str) else queries
    if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
        raise ValueError("queries must be a list of texts, or query a text")
    if len(queries) > MOST_QUERIES:
        raise ValueError(f"{len(queries)} queries; at most {MOST_QUERIES} at a time")
    wanted = topk if row.get("topk") is None else row["topk"]
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not 1 <= wanted <= MOST_PASSAGES:
        raise ValueError(f"topk must be a whole number from 1 to {MOST_PASSAGES}")
    return queries, wanted, bool(row.get("return_scores", False))
