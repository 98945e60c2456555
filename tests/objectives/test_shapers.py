"""Shapers: what they change of an advantage, by hand and by invariants."""

from __future__ import annotations

from dataclasses import replace

import torch
from helpers.losses import DOUBLE, example, rows_of, shaped, turn_sums

from sdar_pl import objectives as O


def test_agent_opsd_moves_credit_between_turns() -> None:
    inputs = example(dtype=DOUBLE)
    got = shaped(O.AgentOPSDShaper(), inputs)
    factor = (got / inputs.advantages)[inputs.mask > 0]
    assert (factor >= 0.75).all()
    assert (factor <= 1.25).all()
    assert factor.std() > 0.01
    # A row of its own turn, or all turns in one row: the same episode gets the same advantages.
    one = rows_of(inputs, slice(0, 1))
    split = O.LossInputs(
        **{
            **one.__dict__,
            **{
                k: getattr(one, k).expand(3, 9)
                for k in ("student_logprobs", "advantages", "turns", "old_logprobs", "teacher_logprobs")
            },
            "mask": torch.stack([(one.turns[0] == k) * one.mask[0] for k in range(3)]),
            "episodes": torch.zeros(3).long(),
            "groups": torch.zeros(3).long(),
        }
    )
    whole, apart = shaped(O.AgentOPSDShaper(), one), shaped(O.AgentOPSDShaper(), split)
    torch.testing.assert_close(apart.sum(0), whole[0])
    # By hand: the belief adds up over the turns.
    belief = torch.sigmoid(turn_sums(one.behaviour_gap, one)[0].cumsum(0))
    rise = belief.diff(prepend=torch.tensor([0.5], dtype=DOUBLE))
    z = (rise - rise.mean()) / rise.std(correction=0)
    by_hand = one.advantages[0] * (1 + 0.5 * 0.2 * one.advantages[0].sign() * z[one.turns[0]])
    torch.testing.assert_close(whole[0], by_hand)
    # The turn that raised the belief most gains in a good episode and loses in a bad one.
    assert one.old_logprobs is not None
    good = replace(one, advantages=torch.ones_like(one.mask), teacher_logprobs=one.old_logprobs + (one.turns == 1))
    assert shaped(O.AgentOPSDShaper(), good)[0, 4] > 1
    bad = replace(good, advantages=-good.advantages)
    assert -1 < shaped(O.AgentOPSDShaper(), bad)[0, 4] < 0


def test_grsd_keeps_the_sign_and_compares_in_the_group() -> None:
    inputs = example(dtype=DOUBLE)
    got, real = shaped(O.GRSDShaper(), inputs), inputs.mask > 0
    assert (got.sign() == inputs.advantages.sign())[real].all()
    assert (got.abs() >= 0.1 * inputs.advantages.abs() - 1e-12)[real].all()
    firsts = (got / inputs.advantages)[:, 0]  # one value a turn
    assert torch.equal(got[0, :4] / inputs.advantages[0, :4], firsts[0].expand(4))
    # By hand, for the second group's rows 4 (turns of 4 and 2 tokens) and 5 (two turns of 4), good and bad.
    for flipped in (1, -1):
        now = replace(inputs, advantages=flipped * inputs.advantages)
        counts = turn_sums(torch.ones_like(now.mask), now)[4:]
        mean = turn_sums(now.behaviour_gap, now)[4:] / counts.clamp(min=1)
        raw = torch.expm1(now.advantages[4:, :1].sign() * mean)
        factor = (1 + 0.5 * raw / raw[counts > 0].abs().mean()).clamp(min=0.1)
        by_hand = now.advantages[4:] * factor.gather(1, now.turns[4:]) * now.mask[4:]
        torch.testing.assert_close(shaped(O.GRSDShaper(), now)[4:], by_hand)
    # Groups do not look at each other, and nobody cares for the order of rows.
    alone = shaped(O.GRSDShaper(), rows_of(inputs, slice(0, 4)))
    torch.testing.assert_close(alone, got[:4])


def test_opid_adds_the_teachers_shift() -> None:
    inputs = example(dtype=DOUBLE)
    got = shaped(O.OPIDShaper(0.01), inputs)
    torch.testing.assert_close(got, inputs.mask * inputs.advantages + 0.01 * inputs.behaviour_gap)
    bounded = shaped(O.OPIDShaper(1.0, clip=0.1), inputs) - inputs.mask * inputs.advantages
    assert bounded.abs().max() <= 0.1 + 1e-12
