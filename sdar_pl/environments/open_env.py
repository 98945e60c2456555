"""OpenEnvClient: a world that an OpenEnv server plays, as an environment of Gymnasium's interface for ``GymText``.

OpenEnv (github.com/meta-pytorch/OpenEnv, protocol of openenv-core 0.3) serves each session on a WebSocket of its own:
``{"type": "reset", "data": {"seed": 1}}`` and ``{"type": "step", "data": {…}}`` are answered by
``{"type": "observation", "data": {"observation": {…}, "reward": …, "done": …}}``. ``GET /schema`` describes actions.
Needs ``pip install 'sdar_pl[openenv]'``; the server needs what its environment needs, and may be on another machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from typing import Any

import httpx

from sdar_pl.environments.generated import package
from sdar_pl.errors import UserError

KEY = "data.environment.worlds"
#: what an observation has besides the environment's own fields
SHARED = frozenset({"done", "reward", "metadata"})
NUMBERS = {"integer": int, "number": float}


class OpenEnvClient:
    """A session of an OpenEnv server.

    Args:
        url: of the server, http://….
        action: field of the action that holds what the policy writes; null: the one field that the server requires.
        reads: fields of an observation that the policy reads; null: all.
        fixed: other fields of every action.
        reset: other arguments of the server's ``reset``, beside ``seed``.
        timeout: seconds that the server may take to answer, > 0.

    Raises ``UserError`` for a server that is none, and for fields that it does not have.
    """

    def __init__(
        self,
        url: str,
        action: str | None = None,
        reads: Sequence[str] | None = None,
        fixed: Mapping[str, Any] | None = None,
        reset: Mapping[str, Any] | None = None,
        timeout: float = 60.0,
    ) -> None:
        self.websockets = package("websockets", "openenv", "OpenEnvClient")
        self.url, self.timeout = url.rstrip("/"), timeout
        self.action, self.number = written_field(self.url, action, frozenset(fixed or {}))
        self.reads, self.fixed, self.arguments = reads, dict(fixed or {}), dict(reset or {})
        self.socket: Any = None
        self.connection = ExitStack()

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        """A new episode. Raises ``ConnectionError`` where the server does not answer, or is full."""
        if self.socket is None:
            from websockets.sync.client import connect

            address = "ws" + self.url.removeprefix("http") + "/ws"
            options: dict[str, Any] = {"open_timeout": self.timeout, "max_size": None, "proxy": None}
            self.connection = ExitStack()
            self.socket = self._answered(lambda: self.connection.enter_context(connect(address, **options)))
        text, *_ = self._ask("reset", {**self.arguments, "seed": seed})
        return text, {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """One action. A text where the server wants a number, or that it refuses, costs a turn and changes nothing."""
        value: Any = action
        if self.number is not None:
            try:
                value = self.number(action.strip())
            except ValueError:
                return "That is no number.", 0.0, False, False, {}
        try:
            text, reward, done = self._ask("step", {**self.fixed, self.action: value})
        except ValueError as error:
            return str(error), 0.0, False, False, {}
        return text, reward, done, False, {}

    def close(self) -> None:
        socket, self.socket = self.socket, None
        if socket is not None:
            with suppress(OSError, TimeoutError, self.websockets.WebSocketException):
                socket.send(json.dumps({"type": "close"}))
                socket.recv(1)  # until the server has closed: it logs an error where a client does
            self.connection.close()

    def _ask(self, kind: str, data: dict[str, Any]) -> tuple[str, float, bool]:
        """Text, reward and end. Raises ``ValueError`` for an action that the server finds invalid."""

        def exchange() -> Any:
            with suppress(self.websockets.ConnectionClosed):  # a full server writes why it closes, and reads nothing
                self.socket.send(json.dumps({"type": kind, "data": data}))
            return json.loads(self.socket.recv(self.timeout))

        answer = self._answered(exchange)
        content = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(content, dict) or answer.get("type") not in ("observation", "error"):
            raise ConnectionError(f"{self.url}: an answer that is not OpenEnv's: {str(answer)[:200]}")
        if answer["type"] == "error":
            code, message = content.get("code"), str(content.get("message"))[:500]
            if kind == "step" and code == "VALIDATION_ERROR":
                raise ValueError(message)
            full = "; start it with more concurrent environments" if code == "CAPACITY_REACHED" else ""
            raise ConnectionError(f"{self.url}: {code}: {message}{full}")
        return (
            self._text(content.get("observation") or {}),
            float(content.get("reward") or 0),
            bool(content.get("done")),
        )

    def _answered(self, call: Any) -> Any:
        try:
            return call()
        except (OSError, TimeoutError, ValueError, self.websockets.WebSocketException) as error:
            self.close()
            raise ConnectionError(f"{self.url}: {type(error).__name__}: {error}") from error

    def _text(self, observation: Mapping[str, Any]) -> str:
        own = [name for name in observation if name not in SHARED]
        names = own if self.reads is None else list(self.reads)
        if missing := [name for name in names if name not in observation]:
            raise UserError(f"{KEY}: reads: an observation of {self.url} has {', '.join(own)}, and no {missing[0]}")
        if len(names) == 1:
            return plain(observation[names[0]])
        return "\n".join(f"{name}: {plain(observation[name])}" for name in names)


def plain(value: Any) -> str:
    """A field as text: of messages their contents, of other values that are no texts their JSON."""
    if isinstance(value, list) and value and all(isinstance(one, dict) and "content" in one for one in value):
        return "\n".join(str(one["content"]) for one in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@cache
def written_field(url: str, action: str | None, fixed: frozenset[str]) -> tuple[str, type[int] | type[float] | None]:
    """The action's field that the policy writes, and its type where that is a number.

    Raises ``UserError`` where there is no such server or field, or more than one to choose from.
    """
    try:
        answer = httpx.get(f"{url}/schema", timeout=10)
        answer.raise_for_status()
        schema = answer.json()["action"]
        fields: dict[str, Any] = schema["properties"]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{KEY}: url: {url}/schema: {type(error).__name__}: {error}; name a running OpenEnv server"
        ) from error
    required = [name for name in schema.get("required", []) if name not in fixed]
    if action is None:
        if len(required) != 1:
            found = ", ".join(required) or "none"
            raise UserError(f"{KEY}: action: {url} requires {found}; name the one that the policy writes")
        action = required[0]
    if action not in fields:
        raise UserError(f"{KEY}: action: {url} has no field {action!r}; it has {', '.join(fields)}")
    return action, NUMBERS.get(fields[action].get("type", ""))
