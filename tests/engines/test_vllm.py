"""VLLMEngine against real vLLM (slow; ``SDAR_PL_VLLM`` names the Python of its environment, docs/engines.md): the
engine contract, and the likeliest tokens that ScoreCentering reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.engine_contract import HOT, RULES, TOLERANCE, ask, prompt, row_of
from helpers.models import quick_to_end
from helpers.vllm import RealServer, policy_of

from sdar_pl.batch import collate
from sdar_pl.engines import VLLMEngine
from sdar_pl.errors import UserError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("rule", RULES)
def test_vllm_keeps_every_rule(server: RealServer, model: Path, rule: str) -> None:
    RULES[rule](VLLMEngine([server.url]), quick_to_end(policy_of(model)))


def test_the_likeliest_tokens_are_the_trainers(server: RealServer, model: Path) -> None:
    """Also where the sampled token is none of them, which vLLM lists as well."""
    policy, engine, prompts = policy_of(model), VLLMEngine([server.url]), [prompt(n, 20) for n in range(8)]
    engine.likely = 4
    engine.sync(policy)
    rows = []
    for context, completion in zip(prompts, engine.generate(ask(prompts), HOT), strict=True):
        assert completion.likely is not None
        rows.append(replace(row_of(context, completion), likely=torch.from_numpy(completion.likely)))
    batch = collate(rows)
    assert batch.likely is not None
    with policy.whole():
        seen = policy.logprobs(batch, temperature=HOT.temperature, top=4)
    assert seen.top is not None
    assert seen.top_tokens is not None
    real, numbers = batch.mask.bool(), batch.likely[..., 0].long()
    assert torch.equal(numbers[real], seen.top_tokens[real])
    torch.testing.assert_close(batch.likely[..., 1][real], seen.top[..., :-1][real], atol=TOLERANCE, rtol=0)
    sampled = batch.tokens.gather(1, batch.positions)[..., None]
    assert not (numbers == sampled).any(-1)[real].all(), "the premise: some sampled tokens are none of the likeliest"


def test_more_likeliest_tokens_than_the_server_gives_are_refused(server: RealServer, model: Path) -> None:
    engine, before = VLLMEngine([server.url]), server.adapters()
    engine.likely = 21
    with pytest.raises(UserError, match=r"start it with --max-logprobs of at least model\.correction\.top_k$"):
        engine.sync(policy_of(model))
    assert set(server.adapters()) <= set(before)
