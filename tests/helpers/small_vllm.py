"""A small HTTP server with vLLM's surface, for faults and the HTTP client; it proves nothing about vLLM.

It holds a policy of its own, loads adapters from peft folders, and samples with the in-process engine. ``fault`` names
what goes wrong with a request: "500", "garbage", "drop" (the connection ends) or "hang".
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from helpers.engine_contract import row_of
from sdar_pl.batch import collate
from sdar_pl.engines import Request, Sampling, TransformersEngine
from sdar_pl.engines.base import Completion
from sdar_pl.policy import Policy


class SmallVLLM:
    """A server on a free port of this machine, while ``running``.

    Args:
        policy: what it serves; its adapters are overwritten by those that are loaded.
        sampled: whether completions are sampled; False draws tokens from the seed, which is quicker.
    """

    def __init__(self, policy: Policy, *, sampled: bool = True) -> None:
        self.policy, self.sampled = policy, sampled
        self.engine = TransformersEngine(keep_cache=False)
        self.adapters: dict[str, dict[str, torch.Tensor]] = {}
        self.fault: Callable[[str], str] = lambda path: ""
        self.base, self.max_model_len, self.version = "base", 2048, "0.32.0"
        self.max_rank, self.max_logprobs, self.runtime_updates = 16, 20, True
        self.template = policy.tokenizer.chat_template
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.ignore_loads = False  # goes on with the adapters that it has: a stale cache
        self.raw = False  # log-probs of temperature 1
        self.lock = threading.Lock()

    @contextmanager
    def running(self, port: int = 0) -> Iterator[str]:
        """The server's URL."""
        outer, gone = self, threading.Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                if gone.is_set():
                    self.close_connection = True
                    return
                self.reply(*outer.answer(self.path, {}))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                fault = outer.fault(self.path)
                if fault == "hang":
                    time.sleep(30)
                if fault == "drop" or gone.is_set():
                    self.close_connection = True
                    return
                if fault == "500":
                    self.reply(500, {"error": {"message": "injected"}})
                elif fault == "garbage":
                    self.reply(200, random.choice([{"choices": []}, {"choices": [{"token_ids": [1]}]}, "nonsense"]))
                else:
                    self.reply(*outer.answer(self.path, body))

            def reply(self, status: int, content: Any) -> None:
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            gone.set()  # connections that are kept alive end, too
            server.shutdown()
            server.server_close()

    # ------------------------------------------------------------------ answers

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and content."""
        self.calls.append((path, body))
        name = body.get("lora_name", "")
        if path == "/health":
            return 200, {}
        if path == "/version":
            return 200, {"version": self.version}
        if path == "/v1/models":
            base = {"id": self.base, "parent": None, "max_model_len": self.max_model_len}
            return 200, {"data": [base, *({"id": one, "parent": self.base} for one in self.adapters)]}
        if path == "/detokenize":
            return 200, {"prompt": self.policy.tokenizer.decode(body["tokens"])}
        if path == "/tokenize":
            text = self.policy.tokenizer.apply_chat_template(
                body["messages"], chat_template=self.template, tokenize=False, add_generation_prompt=True
            )
            return 200, {"tokens": self.policy.tokenizer.encode(text, add_special_tokens=False)}
        if path.endswith("lora_adapter") and not self.runtime_updates:
            return 404, {"detail": "Not Found"}
        if path == "/v1/load_lora_adapter":
            return self.load(name, Path(body["lora_path"]))
        if path == "/v1/unload_lora_adapter":
            return (200, "Success") if self.adapters.pop(name, None) else (404, {"error": {"message": "no adapter"}})
        if body.get("logprobs", 0) > self.max_logprobs:
            found = f"Requested sample logprobs of {body['logprobs']}, which is greater than max allowed"
            return 400, {"error": {"message": f"{found}: {self.max_logprobs}"}}
        if body["model"] not in (*self.adapters, self.base):
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        return 200, self.complete(body)

    def load(self, name: str, folder: Path) -> tuple[int, Any]:
        if name in self.adapters:
            return 400, {"error": {"message": f"The lora adapter '{name}' has already been loaded."}}
        rank = json.loads((folder / "adapter_config.json").read_text())["r"]
        if rank > self.max_rank:
            message = f"'LoRA rank {rank} is greater than max_lora_rank {self.max_rank}.'"
            return 500, {"error": {"message": f"Call to add_lora method failed: Worker failed with error {message}"}}
        weights = load_file(str(folder / "adapter_model.safetensors"))
        if self.ignore_loads and self.adapters:
            weights = next(iter(self.adapters.values()))
        self.adapters[name] = weights
        return 200, "Success"

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        canary = 1000 <= body["seed"] < 1010
        if self.sampled or canary:
            with self.lock:
                tokens, logprobs = self.sample(body)
        else:
            stream = np.random.default_rng([body["seed"], *body["prompt"]])
            tokens = [int(token) for token in stream.integers(5, 250, body["max_tokens"])]
            logprobs = [-float(value) for value in stream.random(len(tokens))]
        found: dict[str, Any] = {"token_logprobs": logprobs}
        if body["logprobs"]:
            with self.lock:
                found["top_logprobs"] = self.likeliest(body, tokens)
        choice = {"token_ids": tokens, "logprobs": found, "finish_reason": "length"}
        return {"choices": [choice], "usage": {}}

    def likeliest(self, body: dict[str, Any], tokens: list[int]) -> list[dict[str, float]]:
        """vLLM's form, the sampled token among them. The weights are those of the last ``sample``."""
        row = row_of(body["prompt"], Completion(tokens, [0.0] * len(tokens)))
        seen = self.policy.logprobs(collate([row]), temperature=body["temperature"], top=body["logprobs"])
        assert seen.top is not None
        assert seen.top_tokens is not None
        columns = zip(seen.top_tokens[0].tolist(), seen.top[0].tolist(), tokens, seen.values[0].tolist(), strict=True)
        return [
            {f"token_id:{token}": value for token, value in [(sampled, own), *zip(names, values, strict=False)]}
            for names, values, sampled, own in columns
        ]

    def sample(self, body: dict[str, Any]) -> tuple[list[int], list[float]]:
        if body["model"] in self.adapters:
            own = dict(self.policy.named_parameters())
            with torch.no_grad():
                for name, weights in self.adapters[body["model"]].items():
                    own["net." + name.replace(".weight", ".default.weight")].copy_(weights)
        ends = self.policy.causal_lm.generation_config.eos_token_id
        tokenizer_end, self.policy.tokenizer.eos_token = self.policy.tokenizer.eos_token, None
        self.policy.causal_lm.generation_config.eos_token_id = body["stop_token_ids"] or None
        try:
            self.engine.sync(self.policy)
            temperature = body["temperature"]
            sampling = Sampling(temperature=temperature, max_new_tokens=body["max_tokens"], stop=body["stop"])
            request = Request(0, body["prompt"], np.random.default_rng(body["seed"]), keep=False)
            with self.policy.reference() if body["model"] == self.base else nullcontext():
                (completion,) = self.engine.generate([request], sampling)
        finally:
            self.policy.causal_lm.generation_config.eos_token_id = ends
            self.policy.tokenizer.eos_token = tokenizer_end
        logprobs = completion.logprobs
        if self.raw:
            batch = collate([row_of(body["prompt"], completion)])
            logprobs = self.policy.logprobs(batch).values[0].tolist()
        return completion.tokens, logprobs
