"""Gates: their ranges, slopes and invariants."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.losses import DOUBLE, example, turn_sums

from sdar_pl import objectives as O
from sdar_pl.objectives.papers.icsd import laplace_cdf


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


def test_icsd_by_hand() -> None:
    """One turn, off-policy: the gate times the CDF of A·ρ·Δ, scaled to the turn's mass."""
    inputs = example(dtype=DOUBLE)
    row = slice(0, 4)  # the first turn of row 0
    assert inputs.old_logprobs is not None
    gap = inputs.gap[0, row]
    for sign in (1.0, -1.0):
        now = replace(inputs, advantages=sign * inputs.advantages.abs())
        ratio = (inputs.student_logprobs.detach() - inputs.old_logprobs)[0, row].exp()
        influence = now.advantages[0, row] * ratio * gap
        free = torch.ones_like(gap, dtype=torch.bool) if sign > 0 else gap >= 0
        up, down = influence[free].clamp(min=0).mean(), (-influence[free]).clamp(min=0).mean()
        plain = torch.sigmoid(5 * gap)
        scaled = plain * laplace_cdf(influence, up, down)
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


def test_laplace_cdf_is_a_cdf_with_the_given_moments() -> None:
    x = torch.linspace(-50, 50, 200_001, dtype=DOUBLE)
    cdf = laplace_cdf(x, torch.full_like(x, 0.7), torch.full_like(x, 0.2))
    assert (cdf.diff() >= 0).all()
    assert cdf[0].item() == pytest.approx(0, abs=1e-9)
    assert cdf[-1].item() == pytest.approx(1, abs=1e-9)
    middle = (x[1:] + x[:-1]) / 2
    assert (cdf.diff() * middle.clamp(min=0)).sum().item() == pytest.approx(0.7, abs=1e-4)
    assert (cdf.diff() * (-middle).clamp(min=0)).sum().item() == pytest.approx(0.2, abs=1e-4)


# ---------------------------------------------------------------------- PCSD


def pcsd_by_loops(gap: list[float], turns: list[int], beta: float, gamma: float, window: int) -> list[float]:
    """The gate of one row, token by token."""

    def last(t: int, n: int) -> list[float]:
        return [gap[u] for u in range(max(0, t - n + 1), t + 1) if turns[u] == turns[t]]

    def variance(t: int) -> float:
        values = last(t, window)
        return sum(v * v for v in values) / len(values) - (sum(values) / len(values)) ** 2

    def lasting(t: int) -> float:
        turn = [variance(u) for u in range(len(gap)) if turns[u] == turns[t]]
        usual = sum(turn) / len(turn)
        share = variance(t) / max(variance(t) + usual, 1e-12)
        values = last(t, 1 + round((window - 1) * share))
        return sum(values) / len(values)

    gates = []
    for t in range(len(gap)):
        slope = lasting(t) - lasting(t - 1) if t and turns[t] == turns[t - 1] else 0.0
        damping = max(0.0, 1 - gamma * max(-slope, 0.0))
        gates.append(float(torch.sigmoid(torch.tensor(beta * lasting(t) * damping, dtype=DOUBLE))))
    return gates


@pytest.mark.parametrize(("beta", "gamma", "window"), [(5.0, 0.5, 8), (2.0, 3.0, 3), (1.0, 0.0, 1), (1.0, 1.0, 1)])
def test_pcsd_by_loops(beta: float, gamma: float, window: int) -> None:
    inputs = example(dtype=DOUBLE)
    got = O.PCSDGate(beta, gamma, window)(inputs.gap, inputs)
    assert (got[inputs.mask == 0] == 0).all()
    for row, length in enumerate(inputs.mask.sum(1).long().tolist()):
        gap, turns = inputs.gap[row, :length].tolist(), inputs.turns[row, :length].tolist()
        expected = torch.tensor(pcsd_by_loops(gap, turns, beta, gamma, window), dtype=DOUBLE)
        torch.testing.assert_close(got[row, :length], expected)


def test_pcsd_keeps_a_steady_gap() -> None:
    inputs = example(dtype=DOUBLE)
    steady = 0.3 * inputs.mask
    torch.testing.assert_close(O.PCSDGate()(steady, inputs), O.GapGate()(steady, inputs) * inputs.mask)


def test_pcsd_damps_a_falling_gap() -> None:
    inputs = example(dtype=DOUBLE)
    falling = torch.tensor([0.9, 0.6, 0.3, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0], dtype=DOUBLE).expand_as(inputs.mask)
    damped, free = (O.PCSDGate(gamma=g)(falling * inputs.mask, inputs) for g in (1.0, 0.0))
    assert (damped[0, 1:4] < free[0, 1:4]).all()
    assert torch.equal(damped[0, 4:], free[0, 4:])
