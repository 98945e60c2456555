"""Gates: their ranges, slopes and invariants."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.losses import DOUBLE, example, turn_sums

from sdar_pl import objectives as O
from sdar_pl.errors import UserError


def test_gates() -> None:
    inputs = example()
    gap = inputs.gap
    torch.testing.assert_close(O.CentredGapGate(5.0)(gap, inputs), O.GapGate(5.0)(gap, inputs) - 0.5)
    assert (O.EntropyGate()(gap, inputs) >= 0.5).all()  # raw: never below ½
    assert (O.EntropyGate(normalise=True)(gap, inputs)[inputs.mask > 0] < 0.5).any()
    confused = replace(inputs, entropy=torch.full_like(gap, 3.0))
    for normalise, sign in ((False, -1), (True, 1)):  # raw soft-OR reverses its slope where the entropy exceeds 1
        gate = O.SoftOrGate(1.0, normalise)
        low, high = (gate(torch.full_like(gap, x), confused) for x in (-0.1, 0.1))
        assert (torch.sign(high - low)[inputs.mask > 0] == sign).all()
    with pytest.raises(UserError, match="entropies"):
        O.EntropyGate()(gap, replace(inputs, entropy=None))


def test_icsd_keeps_the_turns_mass() -> None:
    inputs = example(dtype=DOUBLE)
    gate, plain = (g(inputs.gap, inputs) * inputs.mask for g in (O.ICSDGate(), O.GapGate()))
    torch.testing.assert_close(turn_sums(gate, inputs), turn_sums(plain, inputs))
    assert not torch.allclose(gate, plain)
    kept = (inputs.advantages < 0) & (inputs.gap < 0) & (inputs.mask > 0)
    assert kept.any()
    assert torch.equal(gate[kept], plain[kept])
    # Where the advantage is 0 nothing has influence, and the gate stays as it is.
    still = replace(inputs, advantages=torch.zeros_like(inputs.advantages))
    torch.testing.assert_close(O.ICSDGate()(inputs.gap, still) * inputs.mask, plain)
    # Influence decides: relative to the plain gate, more influence never weighs less within a turn.
    row, good = inputs.mask[0] > 0, replace(inputs, advantages=torch.ones_like(inputs.advantages), old_logprobs=None)
    factor = (O.ICSDGate()(inputs.gap, good) / O.GapGate()(inputs.gap, good))[0]
    for k in range(3):
        here = row & (inputs.turns[0] == k)
        order = inputs.gap[0][here].argsort()
        assert (factor[here][order].diff() >= -1e-12).all()


def test_laplace_cdf_is_one() -> None:
    from sdar_pl.objectives.papers.icsd import laplace_cdf

    x = torch.linspace(-50, 50, 200_001, dtype=DOUBLE)
    up, down = torch.full_like(x, 0.7), torch.full_like(x, 0.2)
    cdf = laplace_cdf(x, up, down)
    assert (cdf.diff() >= 0).all()
    assert cdf[0].item() == pytest.approx(0, abs=1e-9)
    assert cdf[-1].item() == pytest.approx(1, abs=1e-9)
    density = cdf.diff() / x.diff()
    middle = (x[1:] + x[:-1]) / 2
    assert (density * middle.clamp(min=0) * x.diff()).sum().item() == pytest.approx(0.7, abs=1e-4)
    assert (density * (-middle).clamp(min=0) * x.diff()).sum().item() == pytest.approx(0.2, abs=1e-4)


def test_pcsd_reads_what_lasts() -> None:
    inputs = example(dtype=DOUBLE)
    gap, mask = inputs.gap, inputs.mask
    plain = O.GapGate()(gap, inputs) * mask
    torch.testing.assert_close(O.PCSDGate(gamma=0.0, window=1)(gap, inputs), plain)
    constant = 0.3 * mask
    torch.testing.assert_close(O.PCSDGate()(constant, inputs), O.GapGate()(constant, inputs) * mask)
    noisy = O.PCSDGate(gamma=0.0)(gap, inputs)
    spread = [g[0].diff().abs().mean() for g in (noisy, plain)]
    assert spread[0] < spread[1]
    # Nothing crosses the border of a turn.
    other = torch.where(inputs.turns == 0, gap + 1.0, gap) * mask
    later = (inputs.turns > 0) & (mask > 0)
    assert torch.equal(O.PCSDGate()(other, inputs)[later], O.PCSDGate()(gap, inputs)[later])
    falling = torch.tensor([0.9, 0.6, 0.3, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0], dtype=DOUBLE).expand_as(gap) * mask
    damped, free = (O.PCSDGate(gamma=g)(falling, inputs) for g in (1.0, 0.0))
    assert (damped[0, 1:4] < free[0, 1:4]).all()
    assert torch.equal(damped[0, 4:], free[0, 4:])
