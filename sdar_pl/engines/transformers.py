"""In-process sampling with the policy's own weights.

Three savings over calling ``model.generate`` turn by turn: the KV cache of an episode is kept between its turns, a
prompt shared by a group is run once, and finished rows leave the batch. On a GPU rows decode in slots that are refilled
as they end (slots.py). Log-probs come with the tokens. Each row draws from its own random stream (inverse CDF of one
uniform number a token), so results do not depend on batching.
Left out: sliding-window and state-space caches (refused), paging, speculative decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from sdar_pl.checks import at_least
from sdar_pl.engines.base import Completion, Engine, Request, RolloutSize, Sampling, refuse_repeated_sessions
from sdar_pl.engines.inverse_cdf import BYTES_A_LOGIT
from sdar_pl.engines.kv import COLUMNS_AT_ONCE, Block, chunks, gather, refuse_partial_caches
from sdar_pl.engines.responses import Responses
from sdar_pl.engines.slots import Prefilled, SlotPool, decode_in_slots, slot_columns, slot_rows
from sdar_pl.errors import UserError
from sdar_pl.modeling.memory import Memory, height, prefill_bytes
from sdar_pl.modeling.skeleton import Skeleton
from sdar_pl.policy import Policy

if TYPE_CHECKING:
    from sdar_pl.modeling.lean_layers import LeanLayers

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
        slots: decode in slots of a fixed size, each step one CUDA graph (slots.py); "auto": on a GPU.
    """

    def __init__(
        self,
        max_rows: int | Literal["auto"] = 256,
        prefill_tokens: int = 16384,
        keep_cache: bool = True,
        slots: bool | Literal["auto"] = "auto",
    ) -> None:
        self.auto = max_rows == "auto"
        self.max_rows = MOST_ROWS if max_rows == "auto" else at_least("data.engine.max_rows", max_rows, 1)
        self.prefill_tokens = at_least("data.engine.prefill_tokens", prefill_tokens, 1)
        self.keep_cache, self.slots = keep_cache, slots
        self._pool: SlotPool | None = None
        self._open: set[int] = set()  # sessions that were not released yet
        self._policy: Policy | None = None
        self._kept: dict[int, CachedRow] = {}

    def sync(self, policy: Policy) -> None:
        refuse_partial_caches(policy.causal_lm.config)
        if self.slots is True and policy.attention == "flash_attention_2":
            raise UserError("data.engine.slots: true; flash_attention_2 takes no mask, use sdpa or set slots to auto")
        self._policy, self._kept, self._pool = policy, {}, None
        self._open.clear()
        self.prefilled = self.generated = 0

    def release(self, sessions: Sequence[int]) -> None:
        self._forget(sessions)
        self._open.difference_update(sessions)
        if not self._open:
            self._pool = None  # its memory is the update's

    def _forget(self, sessions: Sequence[int]) -> None:
        for session in sessions:
            self._kept.pop(session, None)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        assert self._policy is not None, "sync first"
        refuse_repeated_sessions(requests)
        longest = max((len(request.prompt) for request in requests), default=0)
        self._policy.check_length(longest + sampling.max_new_tokens)
        self._open.update(request.session for request in requests)
        # Here: they import peft, and with it bitsandbytes.
        from sdar_pl.modeling.folded_lora import folded_once
        from sdar_pl.modeling.lean_layers import LeanLayers

        responses = Responses(self._policy, requests, sampling)
        with self._policy.evaluating():
            masks = self._policy.attention != "flash_attention_2"
            if masks and self._uses_slots(self._policy.device.type == "cuda"):
                if self._pool is None:
                    layers = LeanLayers(self._policy.net, self._policy.base_dtype)
                    self._pool = SlotPool(partial(self._fed, layers), self.max_rows)
                width = slot_columns(longest + sampling.max_new_tokens)
                decode_in_slots(responses, self._pool, width, LEAVE_SHARE, self._prefill, self._keep)
            else:
                with folded_once(self._policy.net):
                    for start in range(0, len(requests), self.max_rows):
                        parts = list(self._prefill(requests[start : start + self.max_rows]))
                        block = gather([(part.block, part.rows) for part in parts], spare_columns=COLUMNS_AT_ONCE)
                        logits = torch.cat([part.logits for part in parts])
                        numbers = [start + i for part in parts for i in part.requests]
                        del parts
                        self._decode(responses, numbers, block, logits)
        self.generated += sum(len(completion.tokens) for completion in responses.completions)
        return responses.completions

    def memory(self, model: Skeleton, rollout: RolloutSize) -> dict[str, Memory]:
        from sdar_pl.modeling.folded_lora import plain_parts

        folded = sum(part.base_layer.weight.nbytes for part in plain_parts(model.net))
        decoded = min(rollout.sessions, self.max_rows)
        prompts = max(1, min(decoded, self.prefill_tokens // rollout.prompt_tokens))
        height, token = prefill_bytes(model.net, prompts, rollout.prompt_tokens, precision=model.precision)
        columns = rollout.prompt_tokens + rollout.response_tokens + COLUMNS_AT_ONCE
        keeps = rollout.keep and self.keep_cache
        if self._uses_slots(rollout.on_gpu):
            folded, width = 0, slot_columns(rollout.prompt_tokens + rollout.response_tokens)
            slots = slot_rows(decoded, self.max_rows)
            # Beside the slots: what sessions keep between their turns, and prompts that move into slots.
            rows = rollout.sessions if keeps else 0
            height += prompts * rollout.prompt_tokens * token
            copied = Memory(slots // 2 * width * token, "into fewer slots", in_turn=True)
            room = {"slots": Memory(slots * width * token, f"{slots} × {width:,} tokens × {token:,} B")}
        else:
            rows, room = rollout.sessions if keeps else decoded, {}
            copies = int(decoded * columns * token * (1 if keeps else 1 - LEAVE_SHARE))
            copied = Memory(copies, "when rows leave the batch", in_turn=True)
        note = f"{rows} rows × {columns:,} tokens × {token:,} B, every row at its longest"
        return {
            **({"KV cache": Memory(rows * columns * token, note)} if rows else {}),
            **room,
            "copies of the cache": copied,
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

    def _uses_slots(self, on_gpu: bool) -> bool:
        return on_gpu if self.slots == "auto" else self.slots

    # ------------------------------------------------------------------ prompt → cache and next-token logits

    def _prefill(self, requests: Sequence[Request]) -> Iterator[Prefilled]:
        """The requests' caches chunk by chunk: continued sessions come first."""
        old = [i for i, request in enumerate(requests) if self._continues(request)]
        new = list(set(range(len(requests))).difference(old))
        new.sort(key=lambda i: (len(requests[i].prompt), requests[i].prompt))
        self._forget([requests[i].session for i in new])
        # In the order of their blocks, so that a block that goes on whole is not copied.
        numbers = {id(one.block): n for n, one in enumerate(self._kept.values())}
        kept = {i: self._kept[requests[i].session] for i in old}
        places = {i: (numbers[id(one.block)], one.row) for i, one in kept.items()}
        rest = {i: requests[i].prompt[len(one.tokens) :] for i, one in kept.items()}
        kept.clear()  # what moves into a slot goes
        old.sort(key=places.__getitem__)
        for chunk in chunks([(i, len(rest[i])) for i in old], self.prefill_tokens):
            past = self._take(
                [requests[i].session for i in chunk], spare_columns=max(len(rest[i]) for i in chunk) + COLUMNS_AT_ONCE
            )
            block, last = self._forward([rest[i] for i in chunk], past)
            del past
            yield Prefilled(block, list(range(len(chunk))), last, chunk)
        # Equal prompts stand together and are run once.
        unique = [list(same) for _, same in groupby(new, key=lambda i: requests[i].prompt)]
        prompts = [requests[same[0]].prompt for same in unique]
        for chunk in chunks([(n, len(prompt)) for n, prompt in enumerate(prompts)], self.prefill_tokens):
            block, last = self._forward([prompts[n] for n in chunk], None)
            rows = [row for row, n in enumerate(chunk) for _ in unique[n]]
            yield Prefilled(block, rows, last[rows], [i for n in chunk for i in unique[n]])

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
        hidden, cache = self._step(tokens, valid.long(), positions, past.cache() if past else None)
        return Block.of(cache, valid), self._head(hidden[:, -1])

    def _step(self, tokens: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> tuple[Tensor, Any]:
        assert self._policy is not None
        return self._policy.hidden(
            input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )

    def _head(self, hidden: Tensor) -> Tensor:
        assert self._policy is not None
        return self._policy.causal_lm.get_output_embeddings()(hidden).float()  # type: ignore[no-any-return]

    # ------------------------------------------------------------------ decoding

    def _decode(self, responses: Responses, numbers: Sequence[int], block: Block, logits: Tensor) -> None:
        """Decode these requests, whose caches are the rows of ``block``, in a batch that rows leave."""
        active = list(numbers)  # by place in the batch
        cache, valid = block.cache(), block.valid
        positions = valid.sum(1, keepdim=True)  # of the token to be fed next
        while True:
            tokens = responses.draw(logits, active)
            running = [number not in responses.ended for number in active]
            stay = [place for place, alive in enumerate(running) if alive]
            if len(stay) <= (1 - LEAVE_SHARE) * len(active):
                now = Block.of(cache, valid)
                gone = [place for place, alive in enumerate(running) if not alive]
                self._keep(responses, [active[p] for p in gone], partial(_some, now, gone))
                if not stay:
                    return
                left = gather([(now, stay)], spare_columns=COLUMNS_AT_ONCE)
                cache, valid, positions = left.cache(), left.valid, positions[stay]
                active, tokens, running = [active[p] for p in stay], [tokens[p] for p in stay], [True] * len(stay)
            # What is fed to a row that has ended does not count in its cache.
            valid = torch.cat([valid, torch.tensor(running, device=valid.device)[:, None]], 1)
            hidden, cache = self._step(
                torch.tensor(tokens, device=valid.device)[:, None], valid.long(), positions, cache
            )
            positions = positions + 1
            logits = self._head(hidden[:, -1])

    def _fed(self, layers: LeanLayers, tokens: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        with layers.in_place():
            return self._head(self._step(tokens, mask, positions, cache)[0][:, -1])

    def _keep(self, responses: Responses, numbers: Sequence[int], rows: Callable[[], Block]) -> None:
        """Remember ``rows``, the caches of these requests, for the next turns of their sessions."""
        ended = [(responses.requests[number], responses.completions[number]) for number in numbers]
        if not self.keep_cache or not any(request.keep for request, _ in ended):
            return
        block = rows()
        for row, (request, completion) in enumerate(ended):
            if request.keep:
                # The last token was sampled but never fed: it is not in the cache.
                self._kept[request.session] = CachedRow([*request.prompt, *completion.tokens[:-1]], block, row)


def _some(block: Block, rows: list[int]) -> Block:
    """These rows of a block; all of them are not copied."""
    return block if len(rows) == len(block.valid) else gather([(block, rows)])
