"""Search-R1's protocol in both directions: its clients at our server, our client at its servers, and every outage."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from helpers.models import make_tokenizer
from helpers.servers import Peer, found, reference, served_by, serving

from sdar_pl.engines.base import Completion, Engine, Request, Sampling
from sdar_pl.environments.search_qa import SearchQA
from sdar_pl.errors import UserError
from sdar_pl.prompts import Prompter
from sdar_pl.retrieval.base import Passage, PassageRetriever
from sdar_pl.retrieval.bm25 import BM25
from sdar_pl.retrieval.http import HttpRetriever
from sdar_pl.rollout import PlayRules, play
from sdar_pl.sampling.slots import EpisodeSlot

BOOK = [
    Passage("1", "Varnholm", "Varnholm lies on the river Brenna."),
    Passage("2", "Brenna", "Brenna is full of eels."),
]


def post(url: str, body: Any) -> tuple[int, Any]:
    """A client that is not ours → (status, answer)."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


# ---------------------------------------------------------------------- our server


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(BM25.of(BOOK), largest_body=2000) as url:
        yield url


def test_clients_of_search_r1(address: str) -> None:
    url = f"{address}/retrieve"
    status, answer = post(url, {"queries": ["Varnholm", "eels", "nothing"], "topk": 2, "return_scores": True})
    assert status == 200
    first, second, third = answer["result"]
    assert first[0]["document"]["contents"] == '"Varnholm"\nVarnholm lies on the river Brenna.'
    assert first[0]["score"] > 0
    assert [entry["document"]["id"] for entry in second] == ["2"]
    assert third == []
    _, answer = post(url, {"queries": ["Brenna"], "topk": 1, "return_scores": False})
    assert answer["result"][0][0]["contents"] == '"Brenna"\nBrenna is full of eels.'
    _, answer = post(url, {"query": "Brenna", "topk": 2, "return_scores": True})
    assert [entry["document"]["id"] for entry in answer["result"][0]] == ["2", "1"]
    _, answer = post(url, {"queries": ["Brenna"]})
    assert len(answer["result"][0]) == 2  # the server's own topk


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (b"{", 422, "not JSON"),
        (b"[" * 1500, 422, "not JSON"),
        ([], 422, "no object"),
        ({}, 422, "queries must be"),
        ({"queries": [1]}, 422, "queries must be"),
        ({"queries": [], "topk": 0}, 422, "topk must be"),
        ({"queries": [], "topk": True}, 422, "topk must be"),
        ({"queries": [], "topk": 101}, 422, "topk must be"),
        ({"queries": ["x" * 3000]}, 413, "larger than 2000 bytes"),
    ],
)
def test_bad_requests(address: str, body: Any, status: int, word: str) -> None:
    code, answer = post(f"{address}/retrieve", body)
    assert code == status
    assert word in answer["detail"]


def test_health(address: str) -> None:
    with urllib.request.urlopen(f"{address}/health") as answer:
        assert json.load(answer) == {"status": "ok"}


def test_our_client_at_our_server(address: str) -> None:
    local, remote = BM25.of(BOOK), HttpRetriever(f"{address}/retrieve")
    assert remote.retrieve(["Varnholm", "eels"], 2) == local.retrieve(["Varnholm", "eels"], 2)


# ---------------------------------------------------------------------- our client


def without_scores(body: dict[str, Any]) -> Any:
    return {"result": [found(query, body["topk"], False) for query in body["queries"]]}


def flat(body: dict[str, Any]) -> Any:
    return {"result": found(body["query"], body["topk"], True)}


def texts(body: dict[str, Any]) -> Any:
    return {"result": [['"Title 0"\nx', "y"] for _ in body["queries"]]}


@pytest.mark.parametrize("form", ["queries", "query"])
def test_servers_of_search_r1(form: Any) -> None:
    with served_by(peer := Peer(reference)) as url:
        lists = HttpRetriever(url, form=form).retrieve(["a", "b"], 2)
    assert [[passage.text for passage in each] for each in lists] == [
        ["a is number 0.", "a is number 1."],
        ["b is number 0.", "b is number 1."],
    ]
    assert lists[0][1] == Passage("1", "Title 1", "a is number 1.", 1.5)
    assert len(peer.bodies) == (1 if form == "queries" else 2)
    assert set(peer.bodies[0]) == {form, "topk", "return_scores"}


def test_other_forms_of_an_answer() -> None:
    with served_by(Peer(without_scores)) as url:
        assert HttpRetriever(url).retrieve(["a"], 1) == [[Passage("0", "Title 0", "a is number 0.", 0.0)]]
    with served_by(Peer(flat)) as url:
        assert HttpRetriever(url, form="query").retrieve(["a"], 1)[0][0].score == 1.5
    with served_by(Peer(texts)) as url:
        assert HttpRetriever(url).retrieve(["a"], 2) == [[Passage("", "Title 0", "x"), Passage("", "", "y")]]


def test_searches_of_many_sessions_travel_together() -> None:
    with served_by(peer := Peer()) as url:
        retriever, answers = HttpRetriever(url, wait=0.2, batch=8), dict[int, str]()

        def search(number: int) -> None:
            answers[number] = retriever.retrieve([f"q{number}"], 1 + number % 2)[0][0].text

        threads = [threading.Thread(target=search, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == {number: f"q{number} is number 0." for number in range(20)}
    assert len(peer.bodies) <= 5
    assert max(len(body["queries"]) for body in peer.bodies) <= 8


@pytest.mark.parametrize("fault", ["500", "words", "wrong", "short", "half", "slow"])
def test_a_fault_that_passes(fault: str) -> None:
    with served_by(peer := Peer(fault=fault, faulty=2)) as url:
        found = HttpRetriever(url, timeout=0.3, backoff=0.01).retrieve(["a"], 1)
    assert found[0][0].text == "a is number 0."
    assert len(peer.bodies) == 3


@pytest.mark.parametrize("fault", ["down", "500", "words", "wrong", "short", "half", "slow"])
def test_an_outage(fault: str) -> None:
    """The search raises the user's error, once slowly, then at once: the run ends instead of reading error texts."""
    with served_by(peer := Peer(fault=fault)) as url:
        if fault == "down":
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                url = f"http://127.0.0.1:{free.getsockname()[1]}/retrieve"
        retriever = HttpRetriever(url, timeout=0.2, retries=1, backoff=0.01)
        with pytest.raises(UserError, match=r"retriever.url: http.* gives no answer after 2 tries .*then resume"):
            retriever.retrieve(["a"], 1)
        began = time.monotonic()
        with pytest.raises(UserError, match="gives no answer"):
            retriever.retrieve(["b"], 1)
        assert time.monotonic() - began < 0.1
        assert len(peer.bodies) == (0 if fault == "down" else 2)


def test_the_circuit_closes_again() -> None:
    with served_by(Peer(fault="500", faulty=1)) as url:
        retriever = HttpRetriever(url, retries=0, rest=0.1)
        with pytest.raises(UserError):
            retriever.retrieve(["a"], 1)
        time.sleep(0.15)
        assert retriever.retrieve(["a"], 1)[0]


def test_an_error_reaches_every_thread_of_a_batch() -> None:
    errors: list[UserError] = []
    with served_by(Peer(fault="500")) as url:
        retriever = HttpRetriever(url, retries=0, wait=0.2)

        def search() -> None:
            with pytest.raises(UserError) as caught:
                retriever.retrieve(["a"], 1)
            errors.append(caught.value)

        threads = [threading.Thread(target=search) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(errors) == 4


def test_a_session_passes_an_outage_on() -> None:
    class Down(PassageRetriever):
        def retrieve(self, queries: Sequence[str], topk: int) -> list[list[Passage]]:
            raise UserError("down")

    world = SearchQA(retriever=Down())
    session = world.session(world.tasks("train")[0])
    session.reset()
    with pytest.raises(UserError, match="down"):
        session.step("<search>a</search>")


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ({"url": "localhost:8000"}, "retriever.url: 'localhost:8000'; must begin with"),
        ({"timeout": 0}, "retriever.timeout: 0; must be > 0"),
        ({"retries": -1}, "retriever.retries: -1; must be ≥ 0"),
        ({"batch": 0}, "retriever.batch: 0; must be ≥ 1"),
        ({"form": "list"}, "retriever.form: 'list'; must be one of"),
    ],
)
def test_bad_keys(keys: dict[str, Any], error: str) -> None:
    with pytest.raises(UserError, match=error):
        HttpRetriever(**keys)


class Searching(Engine):
    """Every response is a search."""

    def __init__(self) -> None:
        self.tokens = make_tokenizer().encode("<search>a</search><|end|>")
        self.released: set[int] = set()

    def sync(self, policy: Any) -> None: ...

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        return [Completion(list(self.tokens), [-1.0] * len(self.tokens)) for _ in requests]

    def release(self, sessions: Sequence[int]) -> None:
        self.released |= set(sessions)


def test_an_outage_ends_a_rollout() -> None:
    """No episode is retried, none is left out, none reads an error: the rollout raises, and everything is released."""
    with served_by(peer := Peer(fault="500", faulty=10**9)) as url:
        world = SearchQA(retriever=HttpRetriever(url, retries=1, backoff=0.01, wait=0.05))
        slots = [EpisodeSlot(task, n, 0, n, (n,)) for n, task in enumerate(world.tasks("train")[:12])]
        prompter, engine = Prompter(), Searching()
        prompter.bind(make_tokenizer())
        with pytest.raises(UserError, match=r"gives no answer after 2 tries .*HTTP|500"):
            play(world, slots, engine, prompter, Sampling(), PlayRules(max_turns=4, workers=12))
    assert len(peer.bodies) <= 4  # batches, and a circuit that opens
    assert engine.released == set(range(12))
