"""Gates: their ranges, slopes and invariants."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.losses import DOUBLE, example, turn_sums

from sdar_pl import objectives as O
from sdar_pl.objectives.papers.icsd import laplace_cdf
from sdar_pl.objectives.papers.pcsd import least_squares_slope
from sdar_pl.objectives.turns import turn_median


def test_gates_by_hand() -> None:
    inputs = example(dtype=DOUBLE)
    gap, real = inputs.gap, inputs.mask > 0
    assert inputs.entropy is not None
    h = inputs.entropy * inputs.mask
    expected: dict[O.Gate, torch.Tensor] = {
        O.GapGate(): 1 / (1 + (-5 * gap).exp()),
        O.CentredGapGate(): 1 / (1 + (-5 * gap).exp()) - 0.5,
        O.ConstantGate(): torch.full_like(gap, 0.5),
        O.EntropyGate(2.0): torch.sigmoid(2 * h),
        O.EntropyGate(2.0, normalise=True): torch.sigmoid(2 * (1 - 2 * (-h).exp())),
        O.SoftOrGate(2.0): torch.sigmoid(2 * (h + gap - h * gap)),
        O.SoftOrGate(2.0, normalise=True): torch.sigmoid(2 * (1 - (-h).exp() * (1 - gap.tanh()))),
    }
    for gate, values in expected.items():
        torch.testing.assert_close(gate(gap, inputs)[real], values[real])


def test_raw_soft_or_reverses_its_slope_above_one_nat() -> None:
    inputs = example()
    uncertain = replace(inputs, entropy=torch.full_like(inputs.mask, 3.0))
    for normalise, sign in ((False, -1), (True, 1)):
        gate = O.SoftOrGate(1.0, normalise)
        low, high = (gate(torch.full_like(inputs.mask, x), uncertain) for x in (-0.1, 0.1))
        assert (torch.sign(high - low)[inputs.mask > 0] == sign).all()


# ---------------------------------------------------------------------- ICSD


def one_turn(gap: list[float], advantage: float = 1.0) -> O.LossInputs:
    """An on-policy row of one turn with the given gaps."""
    values = torch.tensor([gap], dtype=DOUBLE)
    return O.LossInputs(
        student_logprobs=torch.zeros_like(values),
        teacher_logprobs=values,
        mask=torch.ones_like(values),
        advantages=torch.full_like(values, advantage),
        turns=torch.zeros_like(values).long(),
    )


@pytest.mark.parametrize(
    ("gap", "advantage", "gates"),
    [
        # A = 1: u = Δ, median 0.15, both mean deviations (0.45 + 0.05)/2 = 0.25; F = ½e^−1.8, ½e^−0.2, 1 − …; ΣF = 2
        ([-0.3, 0.1, 0.2, 0.6], 1.0, [0.0826494, 0.4093654, 0.5906346, 0.9173506]),
        # above the median now (0.05 + 0.85)/2 = 0.45: F = …, 1 − ½e^(−1/9), 1 − ½e^(−17/9); ΣF = 1.9689750, c·½ = 2/ΣF
        ([-0.3, 0.1, 0.2, 1.0], 1.0, [0.0839517, 0.4158157, 0.5612870, 0.9389456]),
        # A = −1: u = −Δ, median −0.15; Δ < 0 keeps ½, the others share 1.5: F = 1 − ½e^−0.2, ½e^−0.2, ½e^−1.8
        ([-0.3, 0.1, 0.2, 0.6], -1.0, [0.5, 0.8183184, 0.5671718, 0.1145098]),
    ],
)
def test_icsd_by_hand(gap: list[float], advantage: float, gates: list[float]) -> None:
    """With β = 0, every gate is ½ before the influence moves it."""
    inputs = one_turn(gap, advantage)
    assert O.ICSDGate(beta=0.0)(inputs.gap, inputs)[0].tolist() == pytest.approx(gates, abs=1e-6)


def test_icsd_off_policy() -> None:
    """The first turn of row 0: the gate times the CDF of A·ρ·Δ at the turn's median, scaled to the turn's mass."""
    inputs = example(dtype=DOUBLE)
    row = slice(0, 4)
    assert inputs.old_logprobs is not None
    gap = inputs.gap[0, row]
    for sign in (1.0, -1.0):
        now = replace(inputs, advantages=sign * inputs.advantages.abs())
        ratio = (inputs.student_logprobs.detach() - inputs.old_logprobs)[0, row].exp()
        influence = now.advantages[0, row] * ratio * gap
        free = torch.ones_like(gap, dtype=torch.bool) if sign > 0 else gap >= 0
        centre = influence.sort().values[1:3].mean()  # of four
        low = influence < centre
        below, above = (centre - influence[low]).mean(), (influence[~low] - centre).mean()
        plain = torch.sigmoid(5 * gap)
        scaled = plain * laplace_cdf(influence, centre, below, above)
        expected = torch.where(free, scaled * plain[free].sum() / scaled[free].sum(), plain)
        torch.testing.assert_close(O.ICSDGate()(inputs.gap, now)[0, row], expected)


def test_icsd_keeps_the_turns_mass() -> None:
    inputs = example(dtype=DOUBLE)
    gate, plain = (g(inputs.gap, inputs) * inputs.mask for g in (O.ICSDGate(), O.GapGate()))
    torch.testing.assert_close(turn_sums(gate, inputs), turn_sums(plain, inputs))
    assert not torch.allclose(gate, plain)


def test_icsd_keeps_the_gate_of_rejected_tokens_in_failed_episodes() -> None:
    inputs = example(dtype=DOUBLE)
    gate, plain = (g(inputs.gap, inputs) * inputs.mask for g in (O.ICSDGate(), O.GapGate()))
    kept = (inputs.advantages < 0) & (inputs.gap < 0) & (inputs.mask > 0)
    assert kept.any()
    assert torch.equal(gate[kept], plain[kept])


def test_icsd_without_advantage_is_the_gap_gate() -> None:
    inputs = example(dtype=DOUBLE)
    still = replace(inputs, advantages=torch.zeros_like(inputs.advantages))
    torch.testing.assert_close(O.ICSDGate()(inputs.gap, still), O.GapGate()(inputs.gap, inputs) * inputs.mask)


def test_laplace_cdf_has_the_given_median_and_deviations() -> None:
    x = torch.linspace(-50, 50, 200_001, dtype=DOUBLE)
    cdf = laplace_cdf(x, torch.full_like(x, 0.3), torch.full_like(x, 0.2), torch.full_like(x, 0.7))
    assert (cdf.diff() >= 0).all()
    assert cdf[0].item() == pytest.approx(0, abs=1e-9)
    assert cdf[-1].item() == pytest.approx(1, abs=1e-9)
    half = torch.tensor([0.3], dtype=DOUBLE)
    assert laplace_cdf(half, half, half, half).item() == 0.5
    middle = (x[1:] + x[:-1]) / 2 - 0.3
    assert 2 * (cdf.diff() * middle.clamp(min=0)).sum().item() == pytest.approx(0.7, abs=1e-4)
    assert 2 * (cdf.diff() * (-middle).clamp(min=0)).sum().item() == pytest.approx(0.2, abs=1e-4)


def test_the_median_of_a_turn() -> None:
    """Turn 0 holds 5, 1, 2 (and a masked 9), turn 1 holds 4, 3; the second row has turn 1 alone."""
    values = torch.tensor([[5.0, 1.0, 4.0, 2.0, 3.0, 9.0], [8.0, 6.0, 7.0, 0.0, 0.0, 0.0]])
    turns = torch.tensor([[0, 0, 1, 0, 1, 0], [1, 1, 1, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]])
    assert turn_median(values, turns, mask).tolist() == [[2, 2, 3.5, 2, 3.5, 0], [7, 7, 7, 0, 0, 0]]
    assert turn_median(values[:, :0], turns[:, :0], mask[:, :0]).shape == (2, 0)


# ---------------------------------------------------------------------- PCSD


def test_pcsd_by_hand() -> None:
    """Window 2, decay ½: the third token's gap fell from 0.6 to 0.2.

    Its variance is 0.04, the turn's mean variance 0.04/3, so that the window has 1 + 0.04/(0.04 + 0.04/3) = 1.75
    tokens: weights 1 and ½·0.75 = 0.375, Δ̄ = (0.2 + 0.375·0.6)/1.375. The slope is −0.4, the scale 1.4/3: the factor
    1 − ½·0.4·3/1.4 = 4/7 stands outside the sigmoid. The first two tokens have neither variance nor slope.
    """
    inputs = one_turn([0.6, 0.6, 0.2])
    gate = O.PCSDGate(beta=1.0, gamma=0.5, window=2, decay=0.5)(inputs.gap, inputs)
    steady = 1 / (1 + math.exp(-0.6))
    assert gate[0].tolist() == pytest.approx([steady, steady, 4 / 7 / (1 + math.exp(-0.425 / 1.375))])


def test_the_slope_is_that_of_the_least_squares_line() -> None:
    """1, 3, 2, 5 (the last is newest): Σ(x − 1.5)(y − 2.75)/Σ(x − 1.5)² = 5.5/5; of the last two, 3; of one, 0."""
    recent = torch.tensor([[[5.0, 2.0, 3.0, 1.0]] * 3])
    real = torch.tensor([[[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]])
    assert least_squares_slope(recent, real)[0].tolist() == pytest.approx([1.1, 3.0, 0.0])


def pcsd_by_loops(gap: list[float], turns: list[int], gate: O.PCSDGate) -> list[float]:
    """The gate of one row, token by token."""

    def last(t: int) -> np.ndarray:
        """The gaps of the turn's last tokens, newest first."""
        return np.array([gap[u] for u in range(t, max(-1, t - gate.window), -1) if turns[u] == turns[t]])

    gates = []
    for t in range(len(gap)):
        turn = [u for u in range(len(gap)) if turns[u] == turns[t]]
        values, usual = last(t), np.mean([last(u).var() for u in turn])
        length = 1 + (gate.window - 1) * values.var() / max(values.var() + usual, 1e-12)
        weights = [gate.decay**k * min(max(length - k, 0), 1) for k in range(len(values))]
        slope = np.polyfit(-np.arange(len(values)), values, 1)[0] if len(values) > 1 else 0.0
        damping = max(0.0, 1 - gate.gamma * max(-slope, 0.0) / np.mean([abs(gap[u]) for u in turn]))
        gates.append(damping / (1 + math.exp(-gate.beta * np.average(values, weights=weights))))
    return gates


@pytest.mark.parametrize(
    "gate", [O.PCSDGate(), O.PCSDGate(2.0, 3.0, 3, 0.5), O.PCSDGate(1.0, 0.0, 1), O.PCSDGate(1.0, 1.0, 20, 1.0)]
)
def test_pcsd_by_loops(gate: O.PCSDGate) -> None:
    inputs = example(dtype=DOUBLE)
    got = gate(inputs.gap, inputs)
    assert (got[inputs.mask == 0] == 0).all()
    for row, length in enumerate(inputs.mask.sum(1).long().tolist()):
        gap, turns = inputs.gap[row, :length].tolist(), inputs.turns[row, :length].tolist()
        torch.testing.assert_close(got[row, :length], torch.tensor(pcsd_by_loops(gap, turns, gate), dtype=DOUBLE))


def test_pcsd_of_one_token_is_the_gap_gate() -> None:
    inputs = example(dtype=DOUBLE)
    torch.testing.assert_close(O.PCSDGate(window=1)(inputs.gap, inputs), O.GapGate()(inputs.gap, inputs) * inputs.mask)


def test_pcsd_keeps_a_steady_gap() -> None:
    inputs = example(dtype=DOUBLE)
    steady = 0.3 * inputs.mask
    torch.testing.assert_close(O.PCSDGate()(steady, inputs), O.GapGate()(steady, inputs) * inputs.mask)


def test_pcsd_damps_a_falling_gap_and_no_rising_one() -> None:
    inputs = one_turn([0.9, 0.6, 0.3, 0.2])
    damped, free = (O.PCSDGate(gamma=g)(inputs.gap, inputs)[0] for g in (1.0, 0.0))
    assert (damped[1:] < free[1:]).all()
    rising = one_turn([0.2, 0.3, 0.6, 0.9])
    damped, free = (O.PCSDGate(gamma=g)(rising.gap, rising)[0] for g in (1.0, 0.0))
    assert torch.equal(damped, free)
