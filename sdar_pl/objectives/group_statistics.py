"""Statistics over the rows of a group or a batch, and the group-relative advantages made of them: [N] → [N]."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from sdar_pl.checks import one_of

Unit = Literal["episode", "row"]
Scale = Literal["std", "none", "leave-one-out"]

STD_EPSILON = 1e-6


def first_rows(episodes: Tensor) -> tuple[Tensor, Tensor]:
    """The index of each episode's first row [E], and for each row the place [N] of its episode among those."""
    ids = episodes.tolist()
    place = {episode: number for number, episode in enumerate(dict.fromkeys(ids))}
    first = torch.tensor([ids.index(episode) for episode in place], device=episodes.device)
    return first, torch.tensor([place[episode] for episode in ids], device=episodes.device)


def success_rates(success: Tensor, groups: Tensor, episodes: Tensor) -> Tensor:
    """The share [N] of successful episodes in each row's group; ``success`` [N] is that of the row's episode.

    An episode counts once, however many rows it has.
    """
    rates = torch.zeros(len(groups), device=groups.device)
    for group in set(groups.tolist()):
        rows = (groups == group).nonzero().flatten()
        first, _ = first_rows(episodes[rows])
        rates[rows] = success[rows][first].to(rates.dtype).mean()
    return rates


def standardise(values: Tensor, samples: Tensor, *, scale: Scale = "std") -> Tensor:
    """``values`` − mean of the ``samples``, with ``std`` also divided by their deviation (1 for one sample) + 1e-6."""
    centred = values - samples.mean()
    if scale != "std":
        return centred
    return centred / ((samples.std() if len(samples) > 1 else 1.0) + STD_EPSILON)


def group_advantages(
    rewards: Tensor, groups: Tensor, episodes: Tensor, *, unit: Unit = "episode", scale: Scale = "std"
) -> Tensor:
    """Group-relative advantages [N] of rows with ``rewards``, ``groups``, ``episodes`` [N].

    ``scale`` compares each row's reward with statistics of its group: ``std`` subtracts the mean and divides by the
    sample deviation + 1e-6 (GRPO, 2402.03300), ``none`` only subtracts the mean (Dr. GRPO, 2503.20783),
    ``leave-one-out`` subtracts the mean of the others (RLOO, 2402.14740). The statistics count every ``unit`` once:
    each episode (by its first row) or each row. By row, as in the reference code, long episodes dominate. The only
    unit of a group keeps its reward. Computed in float64, so that equal rewards give exactly 0; returned in the
    rewards' dtype.

    Raises UserError for an unknown unit or scale.
    """
    one_of("data.advantage.unit", unit, get_args(Unit))
    one_of("data.advantage.scale", scale, get_args(Scale))
    values = rewards.double()
    result = torch.zeros_like(values)
    for group in set(groups.tolist()):
        rows = (groups == group).nonzero().flatten()
        own = values[rows]
        first, place = first_rows(episodes[rows] if unit == "episode" else rows)
        samples, n = own[first], len(first)
        if n == 1:
            result[rows] = own
        elif scale == "leave-one-out":
            result[rows] = own - (samples.sum() - samples[place]) / (n - 1)
        else:
            result[rows] = standardise(own, samples, scale=scale)
    return result.to(rewards.dtype if rewards.is_floating_point() else torch.get_default_dtype())
