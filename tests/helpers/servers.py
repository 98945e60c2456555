"""Servers of passages on loopback: ours, and one written to Search-R1's protocol that can misbehave."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import uvicorn

from sdar_pl.retrieval.base import PassageRetriever
from sdar_pl.retrieval.server import application

#: request's body → answer's body; the default answers with scores, or without where they are not wanted
Answer = Callable[[dict[str, Any]], Any]


def found(query: str, topk: int, scored: bool) -> list[Any]:
    documents = [{"id": str(n), "contents": f'"Title {n}"\n{query} is number {n}.'} for n in range(topk)]
    return [{"document": document, "score": 1.5} for document in documents] if scored else documents


def reference(body: dict[str, Any]) -> Any:
    """What a server of Search-R1 answers, in both forms of a request."""
    queries = body["queries"] if "queries" in body else [body["query"]]
    return {"result": [found(query, body["topk"], body["return_scores"]) for query in queries]}


class Peer:
    """A server that answers with ``answer``; its first ``faulty`` requests meet the ``fault``."""

    def __init__(self, answer: Answer = reference, fault: str = "", faulty: int = 10**9) -> None:
        self.answer, self.fault, self.faulty = answer, fault, faulty
        self.bodies: list[dict[str, Any]] = []

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        self.bodies.append(body)
        fault = self.fault if len(self.bodies) <= self.faulty else ""
        text = json.dumps(self.answer(body)).encode()
        if fault == "slow":
            time.sleep(1.0)
        if fault == "half":  # announces all, sends a half, and goes
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(text)))
            handler.end_headers()
            handler.wfile.write(text[: len(text) // 2])
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        text = {"words": b"<html>", "wrong": b'{"results": []}', "short": b'{"result": []}'}.get(fault, text)
        handler.send_response(500 if fault == "500" else 200)
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)


@contextmanager
def served_by(peer: Peer) -> Iterator[str]:
    """The url of a running peer."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            peer.respond(self)

        def log_message(self, *_: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass  # clients that gave up

    server = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/retrieve"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def serving(retriever: PassageRetriever, **options: Any) -> Iterator[str]:
    """The address of our own server, as ``serve-retriever`` runs it."""
    config = uvicorn.Config(application(retriever, **options), host="127.0.0.1", port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
