"""HTTP client of one vLLM server: tokens in, tokens and their log-probs out; adapters loaded and unloaded.

Left out: which server answers which request (fleet.py), whether an answer is right (canary.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from sdar_pl.engines.base import Completion, Sampling

#: seconds for a connection and for calls that take no time, and for loading an adapter
SHORT, LONG = 10.0, 120.0


class FailedError(Exception):
    """A call that another try or another server may answer: no connection, a time-out, 5xx, an unreadable answer."""


class RefusedError(Exception):
    """A call that the server understands and declines: 4xx, or an adapter that does not fit. ``status`` is HTTP's."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


class MissingAdapterError(FailedError):
    """The server has no model of the adapter's name, as after a restart."""


@dataclass(frozen=True)
class Prompt:
    """One wanted completion as a server receives it.

    Args:
        model: name of the adapter; the base's own name reads without adapter.
        tokens: the whole context.
        seed: of this completion alone.
        sampling: temperature, limit and stop strings.
        ends: tokens that end a response.
        likely: number of likeliest tokens whose log-probs are wanted beside the sampled token's.
    """

    model: str
    tokens: list[int]
    seed: int
    sampling: Sampling
    ends: list[int]
    likely: int = 0

    def body(self) -> dict[str, Any]:
        """Every field that a model's generation_config.json could fill otherwise is sent."""
        return {
            "model": self.model,
            "prompt": self.tokens,
            "max_tokens": self.sampling.max_new_tokens,
            "temperature": self.sampling.temperature,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": self.seed,
            "n": 1,
            "min_tokens": 0,
            "logprobs": self.likely,
            "return_tokens_as_token_ids": True,  # names of ``top_logprobs``: tokens may share a text
            "return_token_ids": True,
            "ignore_eos": True,  # ``ends`` alone decides, the served model's own end tokens do not
            "stop_token_ids": self.ends,
            # vLLM's text begins within the prompt's last, perhaps incomplete, character.
            "stop": [stop for stop in self.sampling.stop if "\ufffd" not in stop],
            "include_stop_str_in_output": True,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "add_special_tokens": False,
        }


@dataclass(frozen=True)
class Answer:
    """A completion, and the number of prompt tokens that the server had cached."""

    completion: Completion
    cached: int


class Client:
    """One server. Safe to use from many threads.

    Args:
        url: "http://host:port"; a trailing "/v1" is ignored.
        timeout: seconds for one completion.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self.timeout = timeout
        self.reconnect()

    def reconnect(self) -> None:
        """Forget the connections that are kept: they may be of a server that has ended. Requests under way go on."""
        unlimited = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        # The proxies of the environment are for the internet, not for the servers of a cluster.
        self._http = httpx.Client(base_url=self.url, limits=unlimited, trust_env=False)

    def complete(self, prompt: Prompt) -> Answer:
        """Raises ``FailedError`` and its subclass, or ``RefusedError``."""
        try:
            answer = self._call("POST", "/v1/completions", prompt.body(), self.timeout)
        except RefusedError as error:
            if error.status == 404:
                raise MissingAdapterError(f"no model {prompt.model}") from error
            raise
        return _checked(answer, prompt)

    def load(self, name: str, path: str) -> None:
        """Load the adapter of the folder ``path``, as the server sees it, under a new ``name``."""
        try:
            self._call("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path}, LONG)
        except FailedError as error:
            if "add_lora" not in str(error):
                raise
            # The engine behind the server declines it, such as a rank above the limit; vLLM answers 500.
            raise RefusedError(500, str(error).removeprefix("HTTP 500: ")) from error

    def unload(self, name: str) -> None:
        self._call("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    def models(self) -> list[dict[str, Any]]:
        """The served models, the base first: ``id``, ``root`` (its path), ``parent``, ``max_model_len``."""
        found = self._call("GET", "/v1/models")
        data = found.get("data") if isinstance(found, dict) else None
        if not data or not all(isinstance(model, dict) and "id" in model for model in data):
            raise FailedError("/v1/models lists no model")
        return sorted(data, key=lambda model: model.get("parent") is not None)

    def names(self) -> list[str]:
        """Names of the served models."""
        return [str(model["id"]) for model in self.models()]

    def version(self) -> str:
        found = self._call("GET", "/version")
        if not isinstance(found, dict) or not isinstance(found.get("version"), str):
            raise FailedError("/version is not vLLM's")
        return str(found["version"])

    def healthy(self) -> bool:
        """Whether the server answers at /health within a few seconds."""
        try:
            return self._http.get("/health", timeout=SHORT).status_code == 200
        except httpx.HTTPError:
            return False

    def text(self, tokens: list[int]) -> str:
        """Tokens → text by the server's own tokenizer."""
        return str(self._call("POST", "/detokenize", {"tokens": tokens}).get("prompt"))

    def template(self, messages: list[dict[str, str]]) -> list[int]:
        """A chat by the server's own template → tokens."""
        body = {"messages": messages, "add_generation_prompt": True, "add_special_tokens": False}
        return list(self._call("POST", "/tokenize", body).get("tokens", []))

    def _call(self, method: str, path: str, body: Any = None, timeout: float = SHORT) -> Any:
        try:
            response = self._http.request(
                method, path, json=body, timeout=httpx.Timeout(timeout, connect=min(timeout, SHORT))
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise FailedError(f"{type(error).__name__}: {error}".rstrip(": ")) from error
        if response.status_code >= 500 or response.status_code in (408, 429):
            raise FailedError(f"HTTP {response.status_code}: {_words(response)}")
        if response.status_code >= 400:
            raise RefusedError(response.status_code, _words(response))
        if not response.headers.get("content-type", "").startswith("application/json"):
            return response.text
        try:
            return response.json()
        except ValueError as error:
            raise FailedError(f"{path} answers no JSON") from error


def _words(response: httpx.Response) -> str:
    """The message of an error, whatever form it comes in."""
    try:
        content = response.json()
    except ValueError:
        content = response.text
    for key in ("error", "message", "detail"):
        if isinstance(content, dict) and key in content:
            content = content[key]
    return " ".join(str(content).split())[:300]


def _checked(answer: Any, prompt: Prompt) -> Answer:
    """A server's answer as a completion. Raises ``FailedError`` where it is none."""
    try:
        (choice,) = answer["choices"]
        tokens, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
        reason = choice["finish_reason"]
        read = choice.get("prompt_token_ids")
        details = (answer.get("usage") or {}).get("prompt_tokens_details") or {}
        cached = int(details.get("cached_tokens") or 0)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FailedError(f"an answer that is no completion ({type(error).__name__}: {error})") from error
    if reason not in ("stop", "length"):
        raise FailedError(f"a completion that ended by {reason!r}")
    numbers = isinstance(tokens, list) and all(type(token) is int and token >= 0 for token in tokens)
    if not numbers or not 1 <= len(tokens) <= prompt.sampling.max_new_tokens:
        raise FailedError("a completion without tokens, or with too many")
    finite = isinstance(logprobs, list) and all(isinstance(v, int | float) and math.isfinite(v) for v in logprobs)
    if not finite or len(logprobs) != len(tokens):
        raise FailedError("a completion whose log-probs are not one finite number a token")
    if read is not None and read != prompt.tokens:
        raise FailedError("a completion of another prompt")
    likely = _likely(choice["logprobs"].get("top_logprobs"), len(tokens), prompt.likely) if prompt.likely else None
    return Answer(Completion(tokens, [float(value) for value in logprobs], likely), cached)


def _likely(found: Any, length: int, count: int) -> NDArray[np.float32]:
    """vLLM's ``top_logprobs`` as ``Turn.likely``. vLLM lists the sampled token, too, even if it is none of them."""
    try:
        pairs = [[(int(name.removeprefix("token_id:")), float(v)) for name, v in one.items()] for one in found]
        likeliest = np.array([sorted(one, key=lambda pair: -pair[1])[:count] for one in pairs], np.float32)
    except (AttributeError, TypeError, ValueError) as error:
        raise FailedError(f"likeliest tokens that cannot be read ({type(error).__name__}: {error})") from error
    if likeliest.shape != (length, count, 2) or not np.isfinite(likeliest).all():
        raise FailedError(f"a completion without the {count} likeliest tokens of each position")
    return likeliest
