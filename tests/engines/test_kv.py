"""Rows of caches gathered: the right columns, in order, without holes."""

from __future__ import annotations

import torch

from sdar_pl.engines.kv import Block, gather


def test_gather() -> None:
    torch.manual_seed(0)
    valid = torch.tensor([[0, 1, 1, 0, 1, 0], [1, 1, 0, 0, 0, 0]]).bool()
    one = Block([(torch.randn(2, 3, 9, 4), torch.randn(2, 3, 9, 4)) for _ in range(2)], valid)
    two = Block([(torch.randn(1, 3, 5, 4), torch.randn(1, 3, 5, 4)) for _ in range(2)], torch.ones(1, 5).bool())
    whole = gather([(one, [1, 0, 1]), (two, [0])], spare_columns=7)
    assert whole.valid.long().tolist() == [[0, 0, 0, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 1, 1], [1, 1, 1, 1, 1]]
    for number in range(2):
        for which in range(2):
            new, old = whole.layers[number][which], one.layers[number][which]
            assert new.shape == (4, 3, 12, 4)
            assert torch.equal(new[0, :, 3:5], old[1, :, :2])
            assert torch.equal(new[1, :, 2:5], old[0][:, [1, 2, 4]])
            assert torch.equal(new[3, :, :5], two.layers[number][which][0])
            assert (new[:3, :, :2] == 0).all(), "columns that do not count must be finite"
    assert gather([(two, [0])]) is two
