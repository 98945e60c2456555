"""TRIAL's turn weights and their control."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sdar_pl.objectives import ConstantGate, GapGate, LossInputs, TurnGate

#: two rows; the first has turns of 2, 1 and 1 tokens, the second one turn of 2
TURNS = torch.tensor([[0, 0, 1, 2, 0], [0, 0, 0, 0, 0]])
MASK = torch.tensor([[1.0, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
GAP = torch.tensor([[0.5, -0.5, -2.0, 1.0, 9.0], [0.3, 0.1, 9.0, 9.0, 9.0]])


def inputs(gap: Tensor = GAP, mask: Tensor = MASK, turns: Tensor = TURNS, iteration: int = 0) -> LossInputs:
    student = torch.full_like(gap, -3.0)
    return LossInputs(student, mask, torch.ones_like(gap), turns, teacher_logprobs=student + gap, iteration=iteration)


def weights(iteration: int = 0, permuted: bool = False, gap: Tensor = GAP) -> Tensor:
    return TurnGate(ConstantGate(1.0), permuted)(gap, inputs(gap, iteration=iteration))


def test_by_hand() -> None:
    """Σ|Δ| = 1 + 2 + 1; shares ¼, ½, ¼ over lengths ½, ¼, ¼."""
    expected = torch.tensor([[0.5, 0.5, 2.0, 1.0, 0.0], [1.0, 1, 0, 0, 0]])
    torch.testing.assert_close(weights(), expected)


def test_its_mean_over_tokens_is_one() -> None:
    generator = torch.Generator().manual_seed(0)
    gap, turns = torch.randn(6, 40, generator=generator), torch.arange(40).expand(6, 40) // 7
    mask = (torch.rand(6, 40, generator=generator) > 0.3).float()
    found = TurnGate()(gap, inputs(gap, mask, turns))
    torch.testing.assert_close(found.sum(1) / mask.sum(1), torch.ones(6))


def test_it_multiplies_another_gate() -> None:
    torch.testing.assert_close(TurnGate(GapGate(5.0))(GAP, inputs()), weights() * GapGate(5.0)(GAP, inputs()))


def test_without_a_gap_all_turns_are_alike() -> None:
    torch.testing.assert_close(weights(gap=torch.zeros_like(GAP)), MASK)


@pytest.mark.parametrize("iteration", range(4))
def test_permuted_weights_are_those_of_other_turns(iteration: int) -> None:
    own, moved = weights()[0], weights(iteration, permuted=True)[0]
    turns = [float(own[place]) for place in (0, 2, 3)]
    found = [float(moved[place]) for place in (0, 2, 3)]
    assert sorted(found) == sorted(turns)
    assert all(one != other for one, other in zip(turns, found, strict=True))
    assert moved[0] == moved[1]
    assert moved[4] == 0
    assert torch.equal(weights(iteration, permuted=True)[1], weights()[1]), "a row of one turn has no other"


def test_the_permutation_does_not_depend_on_the_other_rows() -> None:
    alone = TurnGate(permuted=True)(GAP[:1], inputs(GAP[:1], MASK[:1], TURNS[:1], 5))
    assert torch.equal(alone[0], weights(5, permuted=True)[0])
