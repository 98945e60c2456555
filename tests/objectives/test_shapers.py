"""Shapers: what they change of an advantage, by hand and by invariants."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from helpers.losses import DOUBLE, example, rows_of, shaped, turn_sums

from sdar_pl import objectives as O
from sdar_pl.objectives.group_statistics import success_rates


def test_rlsd_reads_the_gap_of_the_weights_that_sampled() -> None:
    inputs = example(dtype=DOUBLE)
    real, gap = inputs.mask > 0, inputs.behaviour_gap
    factor = (inputs.advantages.sign() * gap).exp().clamp(0.8, 1.2)
    expected = inputs.advantages * (1 + 0.5 * (factor - 1))
    got = shaped(O.RLSDShaper(schedule=O.Constant()), inputs)
    torch.testing.assert_close(got[real], expected[real])


# ---------------------------------------------------------------------- AgentOPSD


def one_episode(sums: list[float], advantage: float) -> O.LossInputs:
    """Four episodes of a group, one a success. The first is a row of one token a turn, whose gaps are ``sums``."""
    gap = torch.zeros(4, len(sums), dtype=DOUBLE)
    gap[0] = torch.tensor(sums, dtype=DOUBLE)
    return O.LossInputs(
        student_logprobs=torch.zeros_like(gap),
        teacher_logprobs=gap,
        mask=torch.ones_like(gap),
        advantages=torch.full_like(gap, advantage),
        turns=torch.arange(len(sums)).expand(4, -1),
        episodes=torch.arange(4),
        groups=torch.zeros(4).long(),
        success=torch.tensor([False, True, False, False]),
    )


def test_agent_opsd_starts_from_the_groups_success_rate() -> None:
    """By hand, as the authors' code with a reward of 1.

    V_0 = 1/4 has odds of 1 to 3. Turns of ln 3, ln 3, −ln 9 lead to odds of 1, 3 and 1/3: V = 1/2, 3/4, 1/4. It rises
    by 1/4, 1/4, −1/2: mean 0, deviation √((1/16 + 1/16 + 1/4)/3) = √2/4, z = 1/√2, 1/√2, −√2. For A = 1,
    m = 1 + 0.2z = 1.1414, 1.1414, 0.7172, the last clipped to 0.8; half of m's distance from 1 reaches A.
    """
    sums = [math.log(3), math.log(3), -math.log(9)]
    good = shaped(O.AgentOPSDShaper(), one_episode(sums, 1.0))[0]
    assert good.tolist() == pytest.approx([1.0707107, 1.0707107, 0.9], abs=1e-6)
    bad = shaped(O.AgentOPSDShaper(), one_episode(sums, -1.0))[0]
    assert bad.tolist() == pytest.approx([-0.9292893, -0.9292893, -1.1], abs=1e-6)


def test_agent_opsd_does_not_read_the_scale_of_rewards() -> None:
    """An advantage ten times as large is shaped alike: a reward of 10 saturates no belief."""
    inputs = example(dtype=DOUBLE)
    tenfold = replace(inputs, advantages=10 * inputs.advantages)
    torch.testing.assert_close(shaped(O.AgentOPSDShaper(), tenfold), 10 * shaped(O.AgentOPSDShaper(), inputs))


@pytest.mark.parametrize("outcome", [True, False])
def test_agent_opsd_survives_a_group_of_equal_outcomes(outcome: bool) -> None:
    inputs = replace(example(dtype=DOUBLE), success=torch.full((6,), outcome))
    factor = (shaped(O.AgentOPSDShaper(), inputs) / inputs.advantages)[inputs.mask > 0]
    assert ((factor >= 0.9) & (factor <= 1.1)).all()


def test_agent_opsd_stays_within_its_clip() -> None:
    inputs = example(dtype=DOUBLE)
    factor = (shaped(O.AgentOPSDShaper(), inputs) / inputs.advantages)[inputs.mask > 0]
    assert ((factor >= 0.9) & (factor <= 1.1)).all()
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
        success=torch.ones(3).bool(),
    )
    torch.testing.assert_close(shaped(O.AgentOPSDShaper(), split).sum(0), shaped(O.AgentOPSDShaper(), one)[0])


def test_agent_opsd_keeps_episodes_apart() -> None:
    """Rows 0 and 3 alone: two of three episodes of a group, one of three turns and one of a single turn."""
    inputs = replace(
        rows_of(example(dtype=DOUBLE), slice(0, 4)),
        episodes=torch.tensor([4, 2, 2, 3]),
        success=torch.tensor([True, False, False, False]),
    )
    got = shaped(O.AgentOPSDShaper(mix=0.4, strength=0.3, clip=1.0), inputs)
    logits = turn_sums(inputs.behaviour_gap, inputs)[0].cumsum(0) + math.log(0.5)  # one success of three: odds 1 to 2
    rise = torch.sigmoid(logits).diff(prepend=torch.tensor([1 / 3], dtype=DOUBLE))
    z = (rise - rise.mean()) / rise.std(correction=0)
    advantages = inputs.advantages[0]
    by_hand = advantages * (1 + 0.4 * 0.3 * advantages.sign() * z[inputs.turns[0]])
    torch.testing.assert_close(got[0], by_hand, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(got[3], inputs.advantages[3] * inputs.mask[3])  # one turn has no deviation


def test_agent_opsd_moves_credit_to_the_turn_that_raised_the_belief() -> None:
    one = rows_of(example(dtype=DOUBLE), slice(0, 1))
    good = replace(one, advantages=torch.ones_like(one.mask), teacher_logprobs=one.behaviour + (one.turns == 1))
    assert shaped(O.AgentOPSDShaper(), good)[0, 4] > 1
    bad = replace(good, advantages=-good.advantages)
    assert -1 < shaped(O.AgentOPSDShaper(), bad)[0, 4] < 0


# ---------------------------------------------------------------------- GRSD


def test_grsd_clips_to_a_tenth() -> None:
    """By hand, as the authors' code: a success of turns with gaps (ln 1.1, ln 1.1) and ln 0.995, and a failure.

    sign(A)·Δ is ln 1.1, ln 0.995 and for the failure's turns ln 1.02, ln 0.945. expm1 makes them 0.1, −0.005, 0.02 and
    −0.055, of mean size 0.18/4 = 0.045; q = 2.22, −0.111, 0.444, −1.22 is clipped to ±0.2 but for the second.
    """
    gap = torch.tensor([[1.1, 1.1, 0.995], [1 / 1.02, 1 / 0.945, 1.0]], dtype=DOUBLE).log()
    inputs = O.LossInputs(
        student_logprobs=torch.zeros_like(gap),
        teacher_logprobs=gap,
        mask=torch.tensor([[1, 1, 1], [1, 1, 0]], dtype=DOUBLE),
        advantages=torch.tensor([[1.0] * 3, [-1.0] * 3], dtype=DOUBLE),
        turns=torch.tensor([[0, 0, 1], [0, 1, 0]]),
        episodes=torch.tensor([0, 1]),
        groups=torch.tensor([0, 0]),
        success=torch.tensor([True, False]),
    )
    got = shaped(O.GRSDShaper(), inputs)
    assert got[0].tolist() == pytest.approx([1.1, 1.1, 0.9444444], abs=1e-5)
    assert got[1].tolist() == pytest.approx([-1.1, -0.9, 0.0], abs=1e-5)


@pytest.mark.parametrize("outcome", [True, False])
def test_grsd_leaves_groups_of_equal_outcomes_alone(outcome: bool) -> None:
    inputs = example(dtype=DOUBLE)
    inputs = replace(inputs, success=torch.tensor([outcome] * 4 + [True, False]))
    got, plain = shaped(O.GRSDShaper(), inputs), inputs.advantages * inputs.mask
    assert torch.equal(got[:4], plain[:4])
    assert not torch.allclose(got[4:], plain[4:])


def test_grsd_keeps_the_sign_and_the_floor() -> None:
    inputs = example(dtype=DOUBLE)
    got, real = shaped(O.GRSDShaper(), inputs), inputs.mask > 0
    assert (got.sign() == inputs.advantages.sign())[real].all()
    low = shaped(O.GRSDShaper(coefficient=100.0, floor=0.2), inputs).abs() / inputs.advantages.abs()
    assert low[real].min().item() == pytest.approx(0.2)


def test_grsd_without_clip() -> None:
    """The second group's rows 4 (turns of 4 and 2 tokens) and 5 (two turns of 4), good and bad."""
    inputs = example(dtype=DOUBLE)
    for flipped in (1, -1):
        now = replace(inputs, advantages=flipped * inputs.advantages)
        counts = turn_sums(torch.ones_like(now.mask), now)[4:]
        mean = turn_sums(now.behaviour_gap, now)[4:] / counts.clamp(min=1)
        raw = torch.expm1(now.advantages[4:, :1].sign() * mean)
        factor = (1 + 0.5 * raw / raw[counts > 0].abs().mean()).clamp(min=0.1)
        by_hand = now.advantages[4:] * factor.gather(1, now.turns[4:]) * now.mask[4:]
        torch.testing.assert_close(shaped(O.GRSDShaper(clip=100.0), now)[4:], by_hand, atol=1e-5, rtol=1e-4)


def test_grsd_compares_within_the_group() -> None:
    inputs = example(dtype=DOUBLE)
    alone = shaped(O.GRSDShaper(), rows_of(inputs, slice(0, 4)))
    torch.testing.assert_close(alone, shaped(O.GRSDShaper(), inputs)[:4])


def test_an_episode_counts_once_in_its_groups_success_rate() -> None:
    """Group 0: a success of three rows, two failures of a row each; group 1: a failure of two rows."""
    rates = success_rates(
        torch.tensor([True, True, False, True, False, False, False]),
        torch.tensor([0, 0, 0, 0, 0, 1, 1]),
        torch.tensor([7, 7, 2, 7, 5, 3, 3]),
    )
    assert rates.tolist() == pytest.approx([1 / 3] * 5 + [0.0] * 2)


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
