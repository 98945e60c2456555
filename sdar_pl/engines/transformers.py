"""In-process sampling with the policy's own weights.

Three savings over calling ``model.generate`` turn by turn: the KV cache of an episode is kept between its turns, a
prompt shared by a group is run once, and finished rows leave the batch. Log-probs come with the tokens. Each row draws
from its own random stream (inverse CDF of one uniform number a token), so results do not depend on batching.
Left out: sliding-window and state-space caches (refused), paging, speculative decoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor

from sdar_pl.checks import at_least
from sdar_pl.engines.base import Completion, Engine, Request, RolloutSize, Sampling, refuse_repeated_sessions
from sdar_pl.engines.inverse_cdf import BYTES_A_LOGIT, draw
from sdar_pl.engines.kv import COLUMNS_AT_ONCE, Block, gather
from sdar_pl.errors import UserError
from sdar_pl.modeling.memory import Memory, height, prefill_bytes
from sdar_pl.modeling.skeleton import Skeleton
from sdar_pl.policy import Policy
from sdar_pl.runtime.finite import blame

#: "auto" decodes no more episodes at one time
MOST_ROWS = 256
#: rows leave the decoding batch once this share of it has finished (leaving copies the cache)
LEAVE_SHARE = 0.25


@dataclass
class CachedRow:
    """What is cached of a session between its turns: a row of a block, and the tokens that it stands for."""

    tokens: list[int]
    block: Block
    row: int


class TransformersEngine(Engine):
    """Batched sampling in the training process.

    Args:
        max_rows: episodes decoded at one time; "auto": as many as the device has memory for, at most 256.
        prefill_tokens: padded prompt tokens per forward call.
        keep_cache: keep KV caches between the turns of an episode.
    """

    def __init__(
        self, max_rows: int | Literal["auto"] = 256, prefill_tokens: int = 16384, keep_cache: bool = True
    ) -> None:
        self.auto = max_rows == "auto"
        self.max_rows = MOST_ROWS if max_rows == "auto" else at_least("data.engine.max_rows", max_rows, 1)
        self.prefill_tokens = at_least("data.engine.prefill_tokens", prefill_tokens, 1)
        self.keep_cache = keep_cache
        self._policy: Policy | None = None
        self._kept: dict[int, CachedRow] = {}

    def sync(self, policy: Policy) -> None:
        _refuse_partial_caches(policy.causal_lm.config)
        self._policy, self._kept = policy, {}
        self.prefilled = self.generated = 0

    def release(self, sessions: Sequence[int]) -> None:
        for session in sessions:
            self._kept.pop(session, None)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        done: list[Completion] = []
        assert self._policy is not None, "sync first"
        refuse_repeated_sessions(requests)
        longest = max((len(request.prompt) for request in requests), default=0)
        self._policy.check_length(longest + sampling.max_new_tokens)
        from sdar_pl.modeling.folded_lora import folded_once  # here: it imports peft, and with it bitsandbytes

        with self._policy.evaluating(), folded_once(self._policy.net):
            for start in range(0, len(requests), self.max_rows):
                done += self._generate(requests[start : start + self.max_rows], sampling)
        return done

    def memory(self, model: Skeleton, rollout: RolloutSize) -> dict[str, Memory]:
        from sdar_pl.modeling.folded_lora import plain_parts

        folded = sum(part.base_layer.weight.nbytes for part in plain_parts(model.net))
        decoded = min(rollout.sessions, self.max_rows)
        prompts = max(1, min(decoded, self.prefill_tokens // rollout.prompt_tokens))
        height, token = prefill_bytes(model.net, prompts, rollout.prompt_tokens, precision=model.precision)
        columns = rollout.prompt_tokens + rollout.response_tokens + COLUMNS_AT_ONCE
        keeps = rollout.keep and self.keep_cache
        rows = rollout.sessions if keeps else decoded
        copies = int(decoded * columns * token * (1 if keeps else 1 - LEAVE_SHARE))
        note = f"{rows} rows × {columns:,} tokens × {token:,} B, every row at its longest"
        return {
            "KV cache": Memory(rows * columns * token, note),
            "copies of the cache": Memory(copies, "when rows leave the batch", in_turn=True),
            "prompts": Memory(height + model.unpacked, f"{prompts} × {rollout.prompt_tokens:,} tokens", in_turn=True),
            "sampling": Memory(decoded * model.vocabulary * BYTES_A_LOGIT, in_turn=True),
            **({"folded adapters": Memory(folded, "a copy of the layers that have one")} if folded else {}),
        }

    def fit(self, model: Skeleton, rollout: RolloutSize, usable: int) -> None:
        for halvings in range(MOST_ROWS.bit_length()):
            self.max_rows = MOST_ROWS >> halvings
            if height(self.memory(model, rollout)) <= usable:
                return
        raise UserError(
            "data.engine.max_rows: auto; not even one episode at a time fits; lower data.engine.prefill_tokens or "
            "data.prompter.max_prompt_tokens, or set data.engine.keep_cache to false"
        )

    # ------------------------------------------------------------------ prompt → cache and next-token logits

    def _generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        block, logits, order = self._prefill(requests)
        decoded = self._decode([requests[i] for i in order], block, logits, sampling)
        by_request = dict(zip(order, decoded, strict=True))
        return [by_request[i] for i in range(len(requests))]

    def _prefill(self, requests: Sequence[Request]) -> tuple[Block, Tensor, list[int]]:
        """Cache, next-token logits [n, V] and the order of the requests in them: continued sessions come first."""
        old = [i for i, request in enumerate(requests) if self._continues(request)]
        new = list(set(range(len(requests))).difference(old))
        new.sort(key=lambda i: (len(requests[i].prompt), requests[i].prompt))
        self.release([requests[i].session for i in new])
        parts, logits = [], []
        kept = {i: self._kept[requests[i].session] for i in old}
        rest = {i: requests[i].prompt[len(kept[i].tokens) :] for i in old}
        # In the order of their blocks, so that a block that goes on whole is not copied.
        numbers = {id(one.block): n for n, one in enumerate(self._kept.values())}
        old.sort(key=lambda i: (numbers[id(kept[i].block)], kept[i].row))
        for chunk in _chunks([(i, len(rest[i])) for i in old], self.prefill_tokens):
            past = self._take(
                [requests[i].session for i in chunk], spare_columns=max(len(rest[i]) for i in chunk) + COLUMNS_AT_ONCE
            )
            block, last = self._forward([rest[i] for i in chunk], past)
            parts.append((block, list(range(len(chunk)))))
            logits.append(last)
        # Equal prompts stand together and are run once.
        unique = [list(same) for _, same in groupby(new, key=lambda i: requests[i].prompt)]
        prompts = [requests[same[0]].prompt for same in unique]
        for chunk in _chunks([(n, len(prompt)) for n, prompt in enumerate(prompts)], self.prefill_tokens):
            block, last = self._forward([prompts[n] for n in chunk], None)
            rows = [row for row, n in enumerate(chunk) for _ in unique[n]]
            parts.append((block, rows))
            logits.append(last[rows])
        return gather(parts, spare_columns=COLUMNS_AT_ONCE), torch.cat(logits), old + new

    def _continues(self, request: Request) -> bool:
        kept = self._kept.get(request.session)
        if kept is None or len(kept.tokens) >= len(request.prompt):
            return False
        return request.prompt[: len(kept.tokens)] == kept.tokens

    def _take(self, sessions: Sequence[int], spare_columns: int) -> Block:
        """The cached rows of these sessions, in order and no longer kept. Sessions of one block stand together."""
        parts: list[tuple[Block, list[int]]] = []
        for session in sessions:
            kept = self._kept.pop(session)
            if not parts or parts[-1][0] is not kept.block:
                parts.append((kept.block, []))
            parts[-1][1].append(kept.row)
        return gather(parts, spare_columns)

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
        positions = (valid.cumsum(1) - 1).clamp(min=0)[:, -width:]
        hidden, cache = self._step(tokens, valid, positions, past.cache() if past else None)
        return Block.of(cache, valid), self._head(hidden[:, -1])

    def _step(self, tokens: Tensor, valid: Tensor, positions: Tensor, cache: Any) -> tuple[Tensor, Any]:
        assert self._policy is not None
        return self._policy.hidden(
            input_ids=tokens,
            attention_mask=valid.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )

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
        positions = valid.sum(1, keepdim=True)  # of the token to be fed next
        while True:
            tokens, logprobs = self._draw(logits, [rows[i] for i in active], running, sampling)
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
            stay = [place for place, alive in enumerate(running) if alive]
            if len(stay) <= (1 - LEAVE_SHARE) * len(active):
                now = Block.of(cache, valid)
                gone = [place for place, alive in enumerate(running) if not alive]
                self._keep([(rows[active[place]], out[active[place]]) for place in gone], now, gone)
                if not stay:
                    return out
                left = gather([(now, stay)], spare_columns=COLUMNS_AT_ONCE)
                cache, valid, positions = left.cache(), left.valid, positions[stay]
                active, tokens, running = [active[p] for p in stay], [tokens[p] for p in stay], [True] * len(stay)
            # What is fed to a row that has ended does not count in its cache.
            valid = torch.cat([valid, torch.tensor(running, device=valid.device)[:, None]], 1)
            hidden, cache = self._step(torch.tensor(tokens, device=valid.device)[:, None], valid, positions, cache)
            positions = positions + 1
            logits = self._head(hidden[:, -1])

    def _draw(
        self, logits: Tensor, rows: Sequence[Request], running: Sequence[bool], sampling: Sampling
    ) -> tuple[list[int], list[float]]:
        """A token and its log-prob for every row. Rows that have ended draw nothing from their streams."""
        assert self._policy is not None
        random = sampling.temperature > 0
        uniforms = [row.stream.random() if random and alive else 0.5 for row, alive in zip(rows, running, strict=True)]
        try:
            return draw(logits, uniforms, sampling)
        except FloatingPointError as error:
            raise UserError(
                f"model.policy: no token can be drawn, the logits are not finite: {blame(self._policy)}; use weights "
                "that are, or go on from an earlier checkpoint with a lower learning rate"
            ) from error

    def _keep(self, ended: Sequence[tuple[Request, Completion]], block: Block, places: list[int]) -> None:
        """Remember the rows of ``block`` at ``places`` for the next turns of the sessions that have ended theirs."""
        if not self.keep_cache or not any(request.keep for request, _ in ended):
            return
        if len(places) < len(block.valid):
            block, places = gather([(block, places)]), list(range(len(places)))
        for row, (request, completion) in zip(places, ended, strict=True):
            if request.keep:
                # The last token was sampled but never fed: it is not in the cache.
                self._kept[request.session] = CachedRow([*request.prompt, *completion.tokens[:-1]], block, row)

    def _stopped(self, completion: Completion, sampling: Sampling) -> bool:
        assert self._policy is not None
        # A stop string of n bytes spans at most n tokens; a few more absorb partial characters.
        longest = max(len(stop.encode()) for stop in sampling.stop) + 4
        tail = self._policy.tokenizer.decode(completion.tokens[-longest:])
        return any(stop in tail for stop in sampling.stop)


def _chunks(items: Sequence[tuple[int, int]], budget: int) -> Iterator[list[int]]:
    """Split (number, length) pairs into chunks of at most ``budget`` padded tokens; a longer one goes alone."""
    chunk, longest = list[int](), 0
    for number, length in items:
        longest = max(longest, length)
        if chunk and longest * (len(chunk) + 1) > budget:
            yield chunk
            chunk, longest = [], length
        chunk.append(number)
    if chunk:
        yield chunk


def _refuse_partial_caches(config: Any) -> None:
    """Raises ``UserError`` where a layer's cache is anything but all keys and values (sliding window, state space)."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    odd = sorted({type(layer).__name__ for layer in DynamicCache(config=config).layers} - {DynamicLayer.__name__})
    if odd:
        raise UserError(
            f"data.engine: this model's layers cache as {', '.join(odd)}; the transformers engine keeps caches of full "
            "attention only, use another model"
        )
