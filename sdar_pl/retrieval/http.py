"""HttpRetriever: passages from a server that speaks Search-R1's protocol; ours is ``sdar_pl serve-retriever``."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Literal

from sdar_pl.checks import at_least, one_of, positive
from sdar_pl.errors import UserError
from sdar_pl.retrieval.base import Passage, PassageRetriever
from sdar_pl.retrieval.batching import Batcher, Breaker
from sdar_pl.retrieval.protocol import WrongAnswerError, passages_of, request_of

#: (query, topk) of one session's search
Search = tuple[str, int]


class HttpRetriever(PassageRetriever):
    """Passages from a server. Searches of sessions that step at the same time travel in one request.

    A request that fails is repeated, with growing pauses. If none succeeds, every search raises ``UserError``: the
    iteration ends, nothing of it counts, and the run can be resumed once the server answers again. An episode never
    reads an error text.

    Args:
        url: of the server, with its path; e.g. http://127.0.0.1:8000/retrieve.
        timeout: seconds for one request (> 0).
        retries: how often a failed request is repeated (≥ 0).
        backoff: seconds before the first repetition; doubled for each further one (≥ 0).
        rest: seconds during which searches fail at once after all repetitions have failed (≥ 0).
        batch: searches of one request (≥ 1).
        wait: seconds that a search waits for others to join its request (≥ 0).
        form: "queries" sends a list; "query" sends every search alone, for servers that know this form only.
        connections: kept open at a time (≥ 1).

    Raises ``UserError`` without the package httpx (extra ``search``) and for a url that is none.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000/retrieve",
        timeout: float = 10.0,
        retries: int = 3,
        backoff: float = 0.5,
        rest: float = 30.0,
        batch: int = 64,
        wait: float = 0.005,
        form: Literal["queries", "query"] = "queries",
        connections: int = 16,
    ) -> None:
        try:
            import httpx
        except ImportError as error:
            raise UserError("HttpRetriever needs the package httpx; pip install 'sdar_pl[search]'") from error
        if not url.startswith(("http://", "https://")):
            raise UserError(f"data.environment.retriever.url: {url!r}; must begin with http:// or https://")
        self.url = url
        self.timeout = positive("data.environment.retriever.timeout", timeout)
        self.retries = at_least("data.environment.retriever.retries", retries, 0)
        self.backoff = at_least("data.environment.retriever.backoff", backoff, 0)
        self.form = one_of("data.environment.retriever.form", form, ("queries", "query"))
        self._breaker = Breaker(at_least("data.environment.retriever.rest", rest, 0))
        most = 1 if form == "query" else at_least("data.environment.retriever.batch", batch, 1)
        self._search = Batcher(self._answer, most, at_least("data.environment.retriever.wait", wait, 0))
        limits = httpx.Limits(max_connections=at_least("data.environment.retriever.connections", connections, 1))
        self._client = httpx.Client(timeout=timeout, limits=limits, trust_env=False)
        self._failures = (httpx.HTTPError, httpx.InvalidURL, ValueError, WrongAnswerError)

    def retrieve(self, queries: Sequence[str], topk: int) -> list[list[Passage]]:
        """See ``PassageRetriever``. One query joins those of other threads; several are a batch already."""
        if len(queries) == 1:
            return [self._search((queries[0], topk))]
        if self.form == "query":
            return [self._search((query, topk)) for query in queries]
        return self._answer([(query, topk) for query in queries])

    def close(self) -> None:
        self._client.close()

    def _answer(self, searches: Sequence[Search]) -> list[list[Passage]]:
        """One request for all searches, repeated until it succeeds. Raises ``UserError`` for an outage."""
        self._breaker.refuse()
        topk = max(topk for _, topk in searches)
        for attempt in range(self.retries + 1):
            try:
                found = self._post([query for query, _ in searches], topk)
                self._breaker.worked()
                return [passages[:wanted] for passages, (_, wanted) in zip(found, searches, strict=True)]
            except self._failures as error:
                reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            self._breaker.refuse()
            if attempt < self.retries:
                time.sleep(self.backoff * 2**attempt * random.uniform(0.5, 1.0))
        outage = UserError(
            f"data.environment.retriever.url: {self.url} gives no answer after {self.retries + 1} tries (the last: "
            f"{reason}); start or mend the server, then resume the run"
        )
        self._breaker.failed(outage)
        raise outage

    def _post(self, queries: Sequence[str], topk: int) -> list[list[Passage]]:
        body = request_of(queries, topk)
        if self.form == "query":
            body["query"] = body.pop("queries")[0]
        answer = self._client.post(self.url, json=body)
        answer.raise_for_status()
        return passages_of(answer.json(), len(queries))
