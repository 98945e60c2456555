"""In-process sampling with the policy's own weights.

Three savings over calling ``model.generate`` turn by turn: the KV cache of an episode is kept between its turns, a
prompt shared by a group is run once, and finished rows leave the batch. Log-probs come with the tokens. Each row draws
from its own random stream (inverse CDF of one uniform number a token), so results do not depend on batching.
Left out: sliding-window and state-space caches (refused), paging, speculative decoding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sdar_pl.engines.base import Completion, Engine, Request, Sampling
from sdar_pl.engines.kv import Block, join
from sdar_pl.errors import UserError
from sdar_pl.policy import Policy

#: rows leave the decoding batch once this share of it has finished (leaving copies the cache)
LEAVE_SHARE = 0.25


class TransformersEngine(Engine):
    """Batched sampling in the training process.

    Args:
        max_rows: episodes decoded at one time.
        prefill_tokens: padded prompt tokens per forward call.
        keep_cache: keep KV caches between the turns of an episode.
    """

    def __init__(self, max_rows: int = 256, prefill_tokens: int = 16384, keep_cache: bool = True) -> None:
        self.max_rows, self.prefill_tokens, self.keep_cache = max_rows, prefill_tokens, keep_cache
        self._policy: Policy | None = None
        self._kept: list[tuple[list[int], Block]] = []  # session numbers and their cached rows
        self._cached: dict[int, list[int]] = {}  # session → the tokens that its cache stands for

    def sync(self, policy: Policy) -> None:
        kinds = set(getattr(policy.causal_lm.config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"}:
            raise UserError(
                f"data.engine: this model has {', '.join(sorted(kinds))} layers; the transformers engine keeps caches of "
                "full attention only, use another model"
            )
        self._policy, self._kept, self._cached = policy, [], {}
        self.prefilled = self.generated = 0

    def release(self, sessions: Sequence[int]) -> None:
        for session in sessions:
            self._cached.pop(session, None)

    @torch.no_grad()
    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        done: list[Completion] = []
        with self._sampling_mode():
            for start in range(0, len(requests), self.max_rows):
                done += self._generate(requests[start : start + self.max_rows], sampling)
        return done

    @contextlib.contextmanager
    def _sampling_mode(self) -> Iterator[None]:
        """Eval mode, restored afterwards: rollouts run inside Lightning's train mode."""
        assert self._policy is not None, "sync first"
        was = self._policy.training
        self._policy.eval()
        try:
            yield
        finally:
            self._policy.train(was)

    # ------------------------------------------------------------------ prompt → cache and next-token logits

    def _generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        block, logits, order = self._prefill(requests)
        rows = [requests[i] for i in order]
        decoded = self._decode(rows, block, logits, sampling)
        for request, completion in zip(rows, decoded, strict=True):
            # The last token was sampled but never fed: it is not in the cache.
            self._cached[request.session] = [*request.prompt, *completion.tokens[:-1]]
        result = [decoded[0]] * len(requests)
        for i, completion in zip(order, decoded, strict=True):
            result[i] = completion
        return result

    def _prefill(self, requests: Sequence[Request]) -> tuple[Block, Tensor, list[int]]:
        """Cache, next-token logits [n, V] and the order of the requests in them: continued sessions come first."""
        old = [i for i, request in enumerate(requests) if self._continues(request)] if self.keep_cache else []
        known = set(old)
        new = [i for i in range(len(requests)) if i not in known]
        blocks, logits = [], []
        if old:
            kept = self._take([requests[i].session for i in old])
            rest = [requests[i].prompt[len(self._cached[requests[i].session]) :] for i in old]
            block, last = self._forward(rest, kept)
            blocks.append(block)
            logits.append(last)
        if new:
            prompts = [tuple(requests[i].prompt) for i in new]
            unique = {prompt: n for n, prompt in enumerate(dict.fromkeys(prompts))}
            pieces = [self._forward(chunk, None) for chunk in self._chunks(list(unique))]
            which = torch.tensor([unique[prompt] for prompt in prompts], device=pieces[0][1].device)
            blocks.append(join([piece[0] for piece in pieces]).select(which))
            logits.append(torch.cat([piece[1] for piece in pieces])[which])
        return join(blocks), torch.cat(logits), old + new

    def _continues(self, request: Request) -> bool:
        cached = self._cached.get(request.session)
        return bool(cached) and len(cached) < len(request.prompt) and request.prompt[: len(cached)] == cached  # type: ignore[arg-type]

    def _chunks(self, prompts: list[tuple[int, ...]]) -> Iterator[list[list[int]]]:
        chunk: list[list[int]] = []
        for prompt in prompts:
            if chunk and max(len(prompt), *map(len, chunk)) * (len(chunk) + 1) > self.prefill_tokens:
                yield chunk
                chunk = []
            chunk.append(list(prompt))
        yield chunk

    def _take(self, sessions: list[int]) -> Block:
        """The cached rows of these sessions, in order, compacted. Rows of released sessions are dropped."""
        parts, where, left = [], {}, []
        for members, block in self._kept:
            wanted = [n for n, session in enumerate(members) if session in set(sessions)]
            if wanted:
                for n in wanted:
                    where[members[n]] = len(where)
                index = torch.tensor(wanted, device=block.valid.device)
                parts.append(block.select(index) if len(wanted) < len(members) else block)
            others = [n for n, session in enumerate(members) if session in self._cached and session not in where]
            if others:
                index = torch.tensor(others, device=block.valid.device)
                left.append(([members[n] for n in others], block.select(index)))
        self._kept = left
        joined = join([part.compact() for part in parts])
        order = [where[session] for session in sessions]
        return joined if order == sorted(order) else joined.select(torch.tensor(order, device=joined.valid.device))

    def _forward(self, prompts: Sequence[Sequence[int]], past: Block | None) -> tuple[Block, Tensor]:
        """Run left-padded prompts after ``past`` → (cache, logits of each row's last token)."""
        assert self._policy is not None
        device = self._policy.device
        width = max(map(len, prompts))
        pad = self._policy.tokenizer.pad_token_id or 0
        tokens = torch.tensor([[*[pad] * (width - len(p)), *p] for p in prompts], device=device)
        fresh = torch.tensor([[False] * (width - len(p)) + [True] * len(p) for p in prompts], device=device)
        self.prefilled += sum(map(len, prompts))
        valid = fresh if past is None else torch.cat([past.valid, fresh], 1)
        hidden, cache = self._step(tokens, valid, past.cache() if past else None)
        return Block.of(cache, valid), self._head(hidden[:, -1])

    def _step(self, tokens: Tensor, valid: Tensor, cache: Any) -> tuple[Tensor, Any]:
        assert self._policy is not None
        positions = (valid.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        output = self._policy.causal_lm.get_decoder()(
            input_ids=tokens,
            attention_mask=valid.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        return output.last_hidden_state, output.past_key_values

    def _head(self, hidden: Tensor) -> Tensor:
        assert self._policy is not None
        return self._policy.causal_lm.get_output_embeddings()(hidden).float()  # type: ignore[no-any-return]

    # ------------------------------------------------------------------ decoding

    def _decode(self, rows: Sequence[Request], block: Block, logits: Tensor, sampling: Sampling) -> list[Completion]:
        assert self._policy is not None
        ends = self._policy.end_tokens
        out = [Completion([], []) for _ in rows]
        active = list(range(len(rows)))  # row numbers in the decoding batch
        running = [True] * len(rows)  # by place in the batch
        cache, valid = block.cache(), block.valid
        while True:
            tokens, logprobs = self._sample(logits, [rows[i] for i in active], running, sampling)
            for place, i in enumerate(active):
                if not running[place]:
                    continue
                completion = out[i]
                completion.tokens.append(tokens[place])
                completion.logprobs.append(logprobs[place])
                self.generated += 1
                over = len(completion.tokens) >= sampling.max_new_tokens
                if over or tokens[place] in ends or (sampling.stop and self._stopped(completion, sampling)):
                    running[place] = False
            left = sum(running)
            if left == 0:
                self._keep([rows[i].session for i in active], Block.of(cache, valid))
                return out
            if left <= (1 - LEAVE_SHARE) * len(active):
                cache, valid, active, tokens = self._leave(rows, cache, valid, active, running, tokens)
                running = [True] * left
            step = torch.tensor(tokens, device=valid.device)[:, None]
            live = torch.tensor(running, device=valid.device)[:, None]
            valid = torch.cat([valid, live], 1)
            hidden, cache = self._step(step, valid, cache)
            logits = self._head(hidden[:, -1])

    def _leave(
        self, rows: Sequence[Request], cache: Any, valid: Tensor, active: list[int], running: list[bool], tokens: list[int]
    ) -> tuple[Any, Tensor, list[int], list[int]]:
        """Finished rows go (their caches are kept for the next turn); the others stay."""
        block = Block.of(cache, valid)
        stay = [place for place, alive in enumerate(running) if alive]
        gone = [place for place, alive in enumerate(running) if not alive]
        self._keep([rows[active[p]].session for p in gone], block.select(torch.tensor(gone, device=valid.device)))
        kept = block.select(torch.tensor(stay, device=valid.device))
        return kept.cache(), kept.valid, [active[p] for p in stay], [tokens[p] for p in stay]

    def _keep(self, sessions: list[int], block: Block) -> None:
        if self.keep_cache:
            self._kept.append((sessions, block))

    def _stopped(self, completion: Completion, sampling: Sampling) -> bool:
        assert self._policy is not None
        # A stop string of n characters spans at most n tokens; a few more absorb partial characters.
        longest = max(map(len, sampling.stop)) + 4
        tail = self._policy.tokenizer.decode(completion.tokens[-longest:])
        return any(stop in tail for stop in sampling.stop)

    def _sample(
        self, logits: Tensor, rows: Sequence[Request], running: Sequence[bool], sampling: Sampling
    ) -> tuple[list[int], list[float]]:
        """One token a row by inverse CDF. Rows that have finished draw nothing from their stream."""
        scaled = logits / (sampling.temperature or 1.0)
        logprobs = scaled.log_softmax(-1)
        if sampling.temperature == 0:
            tokens = logits.argmax(-1)
        else:
            probs = truncate(logprobs, sampling).double()
            cdf = probs.cumsum(-1)
            draws = [row.stream.random() if alive else 0.5 for row, alive in zip(rows, running, strict=True)]
            u = torch.tensor(draws, dtype=torch.float64, device=logits.device)[:, None]
            tokens = torch.searchsorted(cdf, u * cdf[:, -1:], right=True).squeeze(1)
            # u close to 1 may fall past the last token that has probability.
            last = probs.shape[-1] - 1 - (probs.flip(-1) > 0).to(torch.int8).argmax(-1)
            tokens = tokens.minimum(last)
        return tokens.tolist(), logprobs.gather(-1, tokens[:, None]).squeeze(1).tolist()


def truncate(logprobs: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities [n, V] after top-k and top-p (not renormalised)."""
    probs = logprobs.exp()
    if sampling.top_k:
        floor = probs.topk(min(sampling.top_k, probs.shape[-1])).values[:, -1:]
        probs = probs.masked_fill(probs < floor, 0.0)
    if sampling.top_p < 1:
        ranked, order = probs.sort(dim=-1, descending=True)
        # Keep the smallest set whose mass reaches top_p: drop what stands after it.
        drop = ranked.cumsum(-1) - ranked >= sampling.top_p * ranked.sum(-1, keepdim=True)
        probs = probs.masked_fill(drop.scatter(-1, order, drop), 0.0)
    return probs
