"""What an invalid action costs: its own turn, and no other."""

from __future__ import annotations

import json
import math

import pytest
import torch
from helpers import SHARED
from helpers.evidence import required

from sdar_pl import objectives as O
from sdar_pl.batch import Row, rows_of
from sdar_pl.objectives.advantages import Advantage
from sdar_pl.sampling.dynamic_sampling import roll_out
from sdar_pl.scoring import set_advantages
from sdar_pl.types import Episode, Observation, Task, Turn

P = 0.1  # the penalty


def an_episode(index: int, valid: str, reward: float = 0.0) -> Episode:
    """One turn of two tokens for each letter of ``valid``, "x" for an invalid one; the last one is rewarded."""
    episode = Episode(Task("t", "k", ""), 0, index, Observation("hall"))
    for number, letter in enumerate(valid):
        last = number == len(valid) - 1
        seen = Observation(f"room {number}", reward=reward if last else 0.0, done=last)
        penalty = P if letter == "x" else 0.0
        episode.turns.append(Turn([1], [2, 3], [0.0, 0.0], "", "", not penalty, seen, penalty=penalty))
    return episode


def scored(episodes: list[Episode], advantage: Advantage, history: str = "windowed") -> list[Row]:
    rows = [row for i, episode in enumerate(episodes) for row in rows_of(episode, i, history)]
    set_advantages(rows, episodes, advantage)
    return rows


def by_turn(rows: list[Row]) -> list[float]:
    """The advantage of each turn; all of its tokens have the same."""
    values: dict[tuple[int, int], set[float]] = {}
    for row in rows:
        for turn, value in zip(row.turns, row.advantages, strict=True):
            values.setdefault((row.episode, turn), set()).add(value)
    assert all(len(tokens) == 1 for tokens in values.values())
    return [tokens.pop() for tokens in values.values()]


# ---------------------------------------------------------------------- unit: row, the reference


def test_by_row_all_failed() -> None:
    """Ten rows, two invalid: the rewards' mean is −0.02, their deviation √(2·0.08² + 8·0.02²)/3 = 0.0421637."""
    got = by_turn(scored([an_episode(0, "xx..."), an_episode(1, ".....")], O.GroupAdvantage("row")))
    guilty, innocent = -0.08 / 0.0421637, 0.02 / 0.0421637
    assert got == pytest.approx([guilty, guilty] + 8 * [innocent], rel=1e-4)
    # Over many rows the deviation's n − 1 vanishes: −2 and +½ at 20 % invalid, the figures.
    many = by_turn(scored([an_episode(i, 20 * "x....") for i in range(50)], O.GroupAdvantage("row")))
    assert (min(many), max(many)) == pytest.approx((-2.0, 0.5), rel=1e-3)


def test_by_row_mixed_outcomes() -> None:
    """Rows 9.9, 10 and 0, 0, −0.1: mean 3.96, deviation √(5.94² + 6.04² + 2·3.96² + 4.06²)/2 = 5.4793."""
    got = by_turn(scored([an_episode(0, "x.", 10.0), an_episode(1, "..x")], O.GroupAdvantage("row")))
    rewards = [9.9, 10.0, 0.0, 0.0, -0.1]
    deviation = math.sqrt(sum((r - 3.96) ** 2 for r in rewards) / 4)
    assert got == pytest.approx([(r - 3.96) / deviation for r in rewards], rel=1e-5)


@pytest.mark.parametrize("index", range(6))
def test_by_row_is_the_reference(index: int) -> None:
    """The recorded rows' rewards hold penalties of single rows; from episodes and turns they give its figures."""
    file = SHARED / "golden" / "losses.json"
    required(file, "figures of the reference implementations")
    raw = json.loads(file.read_text())["advantages"][index]
    episodes: dict[int, Episode] = {}
    for reward, group, trajectory in zip(raw["row_reward"], raw["group"], raw["trajectory"], strict=True):
        first = episodes.setdefault(trajectory, Episode(Task("t", "k", ""), group, trajectory, Observation("")))
        first.turns.append(Turn([1], [2], [0.0], "", "", True, Observation(""), penalty=-reward))
    rows = scored(list(episodes.values()), O.GroupAdvantage("row"))
    got = dict(zip([(row.episode, row.turns[0]) for row in rows], [row.advantages[0] for row in rows], strict=True))
    seen: dict[int, int] = {}
    numbers = {trajectory: place for place, trajectory in enumerate(episodes)}
    for wanted, trajectory in zip(raw["grpo_rows_std"], raw["trajectory"], strict=True):
        turn = seen[trajectory] = seen.get(trajectory, -1) + 1
        assert got[numbers[trajectory], turn] == pytest.approx(wanted, abs=1e-4)


# ---------------------------------------------------------------------- unit: episode


@pytest.mark.parametrize("history", ["windowed", "conversation"])
@pytest.mark.parametrize("advantage", [O.GroupAdvantage(), O.GroupAdvantage(scale="none"), O.BatchAdvantage()])
def test_by_episode_only_the_guilty_turn_pays(advantage: Advantage, history: str) -> None:
    won = [an_episode(0, ".x.", 10.0), an_episode(1, "...", 10.0)]
    assert by_turn(scored(won, advantage, history)) == pytest.approx([0.0, -P, 0.0] + 3 * [0.0], abs=1e-9)
    mixed = [an_episode(0, ".x.", 10.0), an_episode(1, "x.")]
    clean = [an_episode(0, "...", 10.0), an_episode(1, "..")]
    without = by_turn(scored(clean, advantage, history))
    assert without[0] > 0 > without[-1]
    costs = [0.0, P, 0.0, P, 0.0]
    wanted = [value - cost for value, cost in zip(without, costs, strict=True)]
    assert by_turn(scored(mixed, advantage, history)) == pytest.approx(wanted, abs=1e-9)


def test_by_row_a_conversation_of_many_turns_pays_by_turn() -> None:
    """A row of several turns has one reward; its invalid turns pay for themselves."""
    episodes = [an_episode(0, ".x.", 10.0), an_episode(1, "...", 10.0)]
    got = by_turn(scored(episodes, O.GroupAdvantage("row"), "conversation"))
    assert got == pytest.approx([0.0, -P, 0.0] + 3 * [0.0], abs=1e-9)


def test_by_episode_it_is_the_gradient_of_the_penalised_return() -> None:
    """Two turns with independent logits, no reward: Σ P(y)·Σ_t A_t ∇log π(y_t) = −p ∇E[number of invalid turns]."""
    logits = torch.tensor([0.3, -0.7], dtype=torch.float64, requires_grad=True)
    invalid = logits.sigmoid()
    (wanted,) = torch.autograd.grad(-P * invalid.sum(), logits, retain_graph=True)
    total = torch.zeros(2, dtype=torch.float64)
    for letters in ("..", ".x", "x.", "xx"):
        chosen = torch.stack([q if letter == "x" else 1 - q for q, letter in zip(invalid, letters, strict=True)])
        values = by_turn(scored([an_episode(0, letters), an_episode(1, letters)], O.GroupAdvantage()))[:2]
        loss = (torch.tensor(values, dtype=torch.float64) * chosen.log()).sum()
        total += chosen.prod().detach() * torch.autograd.grad(loss, logits, retain_graph=True)[0]
    torch.testing.assert_close(total, wanted)


# ---------------------------------------------------------------------- GiGPO and dynamic sampling


def test_gigpo_lowers_the_return_of_the_guilty_step_only() -> None:
    """γ = ½. Anchors: both first turns stand in the hall, the second ones in room 0; returns 2.5 and 5, or 0 and 0."""
    episodes = [an_episode(0, "..", 10.0), an_episode(1, ".x", 10.0), an_episode(2, "x.")]
    plain = O.GroupAdvantage(scale="none")
    base = by_turn(scored(episodes, plain))
    got = by_turn(scored(episodes, O.GiGPOAdvantage(weight=1.0, gamma=0.5, scale="none")))
    step = [value - start for value, start in zip(got, base, strict=True)]
    hall, room = [5.0, 5.0, 0.0 - P], [10.0, 10.0 - P, 0.0]
    centred = [[value - sum(level) / 3 for value in level] for level in (hall, room)]
    wanted = [value for pair in zip(*centred, strict=True) for value in pair]
    assert step == pytest.approx(wanted)


def test_dynamic_sampling_compares_rewards_without_penalties() -> None:
    equal = [an_episode(0, "..", 10.0), an_episode(1, "x.", 10.0)]
    rollout = roll_out(lambda round_, groups: equal if groups else [], [0], max_refills=1)
    assert (rollout.refills, rollout.episodes) == (1, [])
