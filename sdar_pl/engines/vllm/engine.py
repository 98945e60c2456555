"""VLLMEngine: rollouts on vLLM servers; only the adapters travel.

Each turn of an episode is one request with a seed of its own, drawn from the episode's stream. Several prompts in one
request would share a seed, and a group would sample the same response G times. Left out: the HTTP calls (client.py),
faults (fleet.py), the weights on the servers (sync.py) and their check (canary.py).
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from sdar_pl.checks import at_least, positive
from sdar_pl.engines.base import Completion, Engine, Request, Sampling, refuse_repeated_sessions
from sdar_pl.engines.vllm.canary import Canary, CanaryError, Known, check_tokenizer
from sdar_pl.engines.vllm.client import Answer, Client, FailedError, Prompt, RefusedError
from sdar_pl.engines.vllm.fleet import Fleet, NoServerError
from sdar_pl.engines.vllm.launch import OwnServer, command_line
from sdar_pl.engines.vllm.start import common_base
from sdar_pl.engines.vllm.sync import Version, Versions, bring, digest_of, forget_others, refusal
from sdar_pl.errors import UserError
from sdar_pl.policy import Policy
from sdar_pl.runtime.processes import GUARD, RUN_FOLDER
from sdar_pl.runtime.ranks import all_gather, rank

#: default tolerance of the canary, nats: a float32 base against others, whose servers round otherwise
EXACT, ROUNDED = 2e-3, 0.1


class VLLMEngine(Engine):
    """Sampling on vLLM servers, one or many, on this machine or on others.

    Args:
        servers: their URLs ("http://host:8000"); null: rank 0 starts one on this machine, which ends with the run.
        command: how it is started, and how ``serve`` begins its line; a Python of another environment goes as
            [/path/to/python, -m, vllm.entrypoints.openai.api_server].
        arguments: more of vLLM's own arguments for it, such as [--gpu-memory-utilization, "0.5"]; a later one wins.
        start_timeout: seconds for it to start, > 0.
        adapters: folder for the adapters, which every server reads under the same path (null: ``.adapters`` in the run
            folder).
        max_model_len: context length that every server must have, in tokens, ≥ 1 (null: each prompt is checked when it
            is sent).
        concurrency: requests of a rank in flight at most, ≥ 1.
        timeout: seconds for one response, > 0.
        patience: seconds without any server before the run ends, ≥ 0.
        canary_tolerance: mean distance between a server's log-probs and the trainer's, in nats, beyond which the run
            ends, > 0 (null: 0.002 for a float32 policy, otherwise 0.1).
    """

    #: the engine computes the log-probs with other kernels than the trainer
    off_policy = True

    def __init__(
        self,
        servers: list[str] | None = None,
        command: list[str] | None = None,
        arguments: list[str] | None = None,
        start_timeout: float = 900.0,
        adapters: str | None = None,
        max_model_len: int | None = None,
        concurrency: int = 256,
        timeout: float = 600.0,
        patience: float = 300.0,
        canary_tolerance: float | None = None,
    ) -> None:
        if servers == []:
            raise UserError(
                "data.engine.servers: none; name at least one URL, such as http://localhost:8000, or set it to null"
            )
        if servers is not None and (command is not None or arguments is not None):
            raise UserError(
                "data.engine.servers: command and arguments are for a server of the engine's own; drop them"
            )
        self.servers = servers
        self.command, self.arguments = command or ["vllm", "serve"], arguments or []
        self.start_timeout = positive("data.engine.start_timeout", start_timeout)
        self.adapters = adapters
        self.max_model_len = at_least("data.engine.max_model_len", max_model_len, 1)
        self.concurrency = at_least("data.engine.concurrency", concurrency, 1)
        self.timeout = positive("data.engine.timeout", timeout)
        self.patience = at_least("data.engine.patience", patience, 0)
        self.canary_tolerance = positive("data.engine.canary_tolerance", canary_tolerance)
        self.longest = max_model_len or 0  # tokens that every server reads
        self._fleet: Fleet[Answer] | None = None
        self._policy: Policy | None = None
        self._versions: Versions | None = None
        self._version: Version | None = None
        self._canary: Canary | None = None
        self._base = ""
        self._own: OwnServer | None = None

    # ------------------------------------------------------------------ sync

    def sync(self, policy: Policy) -> None:
        """Load the policy's adapters on every server and compare the canary. Collective.

        Rank 0 writes and loads; the others receive the version's name. Weights that the servers hold already are not
        loaded again. Raises ``UserError``.
        """
        if policy.lora is None:
            raise UserError(
                "data.engine: vLLM servers take adapters alone, and this policy trains every weight; add "
                "model.policy.lora or use sdar_pl.engines.TransformersEngine"
            )
        self._policy = policy
        if self._fleet is None:
            self._connect(policy)
        problem: str | None = None
        if rank() == 0:
            try:
                self._load(policy)
            except UserError as error:
                problem = str(error)
        known = self._canary.known if self._canary else {}
        self._version, problem, known = all_gather((self._version, problem, known))[0]
        if problem is not None:
            raise UserError(problem)
        self.prefilled = self.generated = 0
        if self._fleet is not None:
            self._canary = self._new_canary(policy, known)
            self._fleet.sessions.clear()
            self._fleet.lost = 0
            self._fleet.readmit_due()
            self._canary.closed = True

    def line(self, policy: Policy) -> list[str]:
        """vLLM's command line for a policy, as the engine and ``serve`` run it. Raises ``UserError``."""
        return command_line(policy, self.command, self.arguments, self.max_model_len)

    def _started(self, policy: Policy) -> list[str]:
        """The URL of the engine's own server, which rank 0 starts. Collective."""
        url, problem = "", None
        if rank() == 0:
            run = os.environ.get(RUN_FOLDER) or tempfile.mkdtemp(prefix="sdar-vllm-")
            try:
                self._own = OwnServer(self.line(policy), Path(run) / "vllm.log")
                self._own.wait(self.start_timeout)
                url = self._own.url
            except UserError as error:
                problem = str(error)
        url, problem = all_gather((url, problem))[0]
        if problem is not None:
            raise UserError(problem)
        return [url]

    def _connect(self, policy: Policy) -> None:
        self._urls = self._started(policy) if self.servers is None else self.servers
        clients = [Client(url, self.timeout) for url in self._urls]
        self._base, self.longest = common_base(clients, policy, self.max_model_len)
        for client in clients:
            try:
                check_tokenizer(policy, client)
            except (CanaryError, RefusedError, FailedError) as error:
                raise refusal(client, error) from error
        self._fleet = Fleet(clients, self._readmit, self.concurrency, self.patience, first=rank())
        run = os.environ.get(RUN_FOLDER)
        folder = self.adapters or (os.path.join(run, ".adapters") if run else tempfile.mkdtemp(prefix="sdar-adapters-"))
        self._versions = Versions(Path(folder), temporary=self.adapters is None)
        # With the engine, or with the process at the latest. A server of the engine's own ends then, too.
        weakref.finalize(self, self._versions.end, [] if self._own else clients)

    def _load(self, policy: Policy) -> None:
        assert self._versions is not None
        assert self._fleet is not None
        old, digest = self._version, digest_of(policy)
        if old is not None and old.digest == digest:
            return
        self._version = new = self._versions.write(policy, digest, self._base)
        self._canary = self._new_canary(policy, {})
        self._versions.load(new, self._fleet, self._canary)
        if not self._fleet.alive:
            raise self._none_left(self._fleet.last)
        if old is not None:
            self._versions.unload(old, [member.client for member in self._fleet.alive])

    def _new_canary(self, policy: Policy, known: Known) -> Canary:
        assert self._version is not None
        exact = policy.quantization is None and policy.base_dtype.itemsize >= 4
        tolerance = self.canary_tolerance or (EXACT if exact else ROUNDED)
        return Canary(policy, self._version.name, tolerance, self.likely, known)

    def _readmit(self, client: Client) -> None:
        """Bring a server that was out to the present version. Raises ``FailedError`` or ``RefusedError``."""
        assert self._version is not None
        assert self._canary is not None
        try:
            bring(client, self._version, self._canary)
            forget_others(client, self._version)
        except CanaryError as error:
            raise FailedError(str(error)) from error

    def _none_left(self, error: object) -> UserError:
        return UserError(
            f"data.engine.servers: none of the {len(self._urls)} servers answers any more ({error}); start one "
            f"again, then go on with the run. {GUARD.resume}".rstrip()
        )

    # ------------------------------------------------------------------ generation

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        assert self._policy is not None, "sync first"
        assert self._fleet is not None
        assert self._version is not None
        refuse_repeated_sessions(requests)
        refuse_filters(sampling)
        longest = max((len(request.prompt) for request in requests), default=0) + sampling.max_new_tokens
        self._policy.check_length(longest)
        if requests and longest > self.longest:
            raise UserError(
                f"data.engine.servers: a sequence of {longest} tokens, the next response included, is longer than the "
                f"{self.longest} that the servers read; start them with --max-model-len {longest}, or lower "
                "data.prompter.max_prompt_tokens"
            )
        words = self._policy.causal_lm.get_input_embeddings().num_embeddings
        ends = sorted(token for token in self._policy.end_tokens if token < words)  # a server declines others
        asks: list[tuple[int, Callable[[Client], Answer]]] = []
        for request in requests:
            seed = int(request.stream.integers(2**31 - 1))
            prompt = Prompt(self._version.name, request.prompt, seed, sampling, ends, self.likely)
            asks.append((request.session, partial(Client.complete, prompt=prompt)))
        try:
            answers = self._fleet.run(asks)
        except NoServerError as error:
            raise self._none_left(error) from error
        except RefusedError as error:
            raise UserError(f"data.engine.servers: a server declines a request: {error}") from error
        completions = [self._stopped(answer.completion, sampling) for answer in answers]
        for request, answer, completion in zip(requests, answers, completions, strict=True):
            self.prefilled += len(request.prompt) - answer.cached
            self.generated += len(completion.tokens)
        return completions

    def release(self, sessions: Sequence[int]) -> None:
        if self._fleet is not None:
            self._fleet.release(sessions)

    def _stopped(self, completion: Completion, sampling: Sampling) -> Completion:
        """The completion up to the token that completes a stop string.

        A server looks for stop strings in its streamed text, which holds back partial characters: it stops at this
        token or later.
        """
        assert self._policy is not None
        if not sampling.stop:
            return completion
        for end in range(1, len(completion.tokens) + 1):
            text = self._policy.tokenizer.decode(completion.tokens[:end])
            if any(stop in text for stop in sampling.stop):
                likely = None if completion.likely is None else completion.likely[:end]
                return Completion(completion.tokens[:end], completion.logprobs[:end], likely)
        return completion


def refuse_filters(sampling: Sampling) -> None:
    """Raises ``UserError`` for top-p and top-k: a server's log-probs are those of the tokens that the filter leaves."""
    for name, value, off in (("top_p", sampling.top_p, 1.0), ("top_k", sampling.top_k, 0)):
        if value != off:
            raise UserError(
                f"data.evaluation.{name}: {value:g}; vLLM's log-probs are then those of the filtered distribution, set "
                f"it to {off:g} or use sdar_pl.engines.TransformersEngine"
            )
