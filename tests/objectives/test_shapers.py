"""Shapers: what they change of an advantage, by hand and by invariants."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.losses import DOUBLE, example, rows_of, shaped, turn_sums

from sdar_pl import objectives as O


def test_rlsd_reads_the_gap_of_the_weights_that_sampled() -> None:
    inputs = example(dtype=DOUBLE)
    real, gap = inputs.mask > 0, inputs.behaviour_gap
    factor = (inputs.advantages.sign() * gap).exp().clamp(0.8, 1.2)
    expected = inputs.advantages * (1 + 0.5 * (factor - 1))
    got = shaped(O.RLSDShaper(schedule=O.Constant()), inputs)
    torch.testing.assert_close(got[real], expected[real])


# ---------------------------------------------------------------------- AgentOPSD


def test_agent_opsd_stays_within_its_clip() -> None:
    inputs = example(dtype=DOUBLE)
    factor = (shaped(O.AgentOPSDShaper(), inputs) / inputs.advantages)[inputs.mask > 0]
    assert ((factor >= 0.75) & (factor <= 1.25)).all()
    assert factor.std() > 0.01
    strong = (shaped(O.AgentOPSDShaper(mix=1.0, strength=100.0, clip=0.3), inputs) / inputs.advantages)[inputs.mask > 0]
    torch.testing.assert_close(torch.stack([strong.min(), strong.max()]), torch.tensor([0.7, 1.3], dtype=DOUBLE))


def test_agent_opsd_does_not_depend_on_how_turns_lie_in_rows() -> None:
    one = rows_of(example(dtype=DOUBLE), slice(0, 1))
    wide = {name: getattr(one, name).expand(3, 9) for name in ("student_logprobs", "advantages", "turns")}
    split = replace(
        one,
        **wide,
        old_logprobs=one.behaviour.expand(3, 9),
        teacher_logprobs=(one.behaviour + one.behaviour_gap).expand(3, 9),
        mask=torch.stack([(one.turns[0] == k) * one.mask[0] for k in range(3)]),
        episodes=torch.zeros(3).long(),
        groups=torch.zeros(3).long(),
    )
    torch.testing.assert_close(shaped(O.AgentOPSDShaper(), split).sum(0), shaped(O.AgentOPSDShaper(), one)[0])


def test_agent_opsd_by_hand() -> None:
    """Rows 0 and 3 alone: two episodes that must not mix, one of three turns and one of a single turn."""
    inputs = replace(rows_of(example(dtype=DOUBLE), slice(0, 4)), episodes=torch.tensor([4, 2, 2, 3]))
    got = shaped(O.AgentOPSDShaper(mix=0.4, strength=0.3), inputs)
    belief = torch.sigmoid(turn_sums(inputs.behaviour_gap, inputs)[0].cumsum(0))
    rise = belief.diff(prepend=torch.tensor([0.5], dtype=DOUBLE))
    z = (rise - rise.mean()) / rise.std(correction=0)
    advantages = inputs.advantages[0]
    by_hand = advantages * (1 + 0.4 * 0.3 * advantages.sign() * z[inputs.turns[0]])
    torch.testing.assert_close(got[0], by_hand)
    torch.testing.assert_close(got[3], inputs.advantages[3] * inputs.mask[3])  # one turn has no deviation


def test_agent_opsd_moves_credit_to_the_turn_that_raised_the_belief() -> None:
    one = rows_of(example(dtype=DOUBLE), slice(0, 1))
    good = replace(one, advantages=torch.ones_like(one.mask), teacher_logprobs=one.behaviour + (one.turns == 1))
    assert shaped(O.AgentOPSDShaper(), good)[0, 4] > 1
    bad = replace(good, advantages=-good.advantages)
    assert -1 < shaped(O.AgentOPSDShaper(), bad)[0, 4] < 0


# ---------------------------------------------------------------------- GRSD


def test_grsd_keeps_the_sign_and_the_floor() -> None:
    inputs = example(dtype=DOUBLE)
    got, real = shaped(O.GRSDShaper(), inputs), inputs.mask > 0
    assert (got.sign() == inputs.advantages.sign())[real].all()
    low = shaped(O.GRSDShaper(coefficient=100.0, floor=0.2), inputs).abs() / inputs.advantages.abs()
    assert low[real].min().item() == pytest.approx(0.2)


def test_grsd_by_hand() -> None:
    """The second group's rows 4 (turns of 4 and 2 tokens) and 5 (two turns of 4), good and bad."""
    inputs = example(dtype=DOUBLE)
    for flipped in (1, -1):
        now = replace(inputs, advantages=flipped * inputs.advantages)
        counts = turn_sums(torch.ones_like(now.mask), now)[4:]
        mean = turn_sums(now.behaviour_gap, now)[4:] / counts.clamp(min=1)
        raw = torch.expm1(now.advantages[4:, :1].sign() * mean)
        factor = (1 + 0.5 * raw / raw[counts > 0].abs().mean()).clamp(min=0.1)
        by_hand = now.advantages[4:] * factor.gather(1, now.turns[4:]) * now.mask[4:]
        torch.testing.assert_close(shaped(O.GRSDShaper(), now)[4:], by_hand)


def test_grsd_compares_within_the_group() -> None:
    inputs = example(dtype=DOUBLE)
    alone = shaped(O.GRSDShaper(), rows_of(inputs, slice(0, 4)))
    torch.testing.assert_close(alone, shaped(O.GRSDShaper(), inputs)[:4])


# ---------------------------------------------------------------------- OPID


def test_opid_adds_the_gap_of_the_old_policy() -> None:
    inputs = example(dtype=DOUBLE)
    plain = inputs.mask * inputs.advantages
    torch.testing.assert_close(shaped(O.OPIDShaper(0.01), inputs), plain + 0.01 * inputs.behaviour_gap)
    half = shaped(O.OPIDShaper(0.02, schedule=O.Constant(0.5)), inputs)
    torch.testing.assert_close(half, plain + 0.01 * inputs.behaviour_gap)


def test_opid_bounds_the_gap_on_both_sides() -> None:
    inputs = example(dtype=DOUBLE)
    added = shaped(O.OPIDShaper(1.0, clip=0.1), inputs) - inputs.mask * inputs.advantages
    torch.testing.assert_close(added, inputs.behaviour_gap.clamp(-0.1, 0.1))
    assert added.min() < 0 < added.max()
