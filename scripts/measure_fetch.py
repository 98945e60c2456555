"""How many steps the household's helper ("fetch") saves the expert, where a game profits from it and where not.

Run: python scripts/measure_fetch.py [--games 1000]
"""

from __future__ import annotations

import random
from collections import defaultdict
from statistics import fmean

from _common import run_script

from sdar_pl.checks import between
from sdar_pl.environments.household import Household
from sdar_pl.environments.household.macros import MacroExpert
from sdar_pl.runtime.messages import PlainParser
from sdar_pl.types import Task


def steps(world: Household, task: Task, share: float) -> int:
    """Steps that the expert needs; ``share`` 1 with the helper, 0 without."""
    session, expert = world.session(task), MacroExpert(task.text, random.Random(task.id), share)
    observation, number = session.reset(), 0
    while not observation.done:
        observation, number = session.step(expert.act(observation)), number + 1
    return number


def measure(games: int) -> dict[bool, list[tuple[int, int]]]:
    """Whether a game profits → the steps of each such game with and without the helper."""
    world = Household(size="tiny", macros=True)
    found: dict[bool, list[tuple[int, int]]] = defaultdict(list)
    for task in world.tasks("train")[:games]:
        found[world.profits_from_tools(task)].append((steps(world, task, 1), steps(world, task, 0)))
    return found


def main() -> None:
    parser = PlainParser(description=__doc__)
    parser.add_argument("--games", type=int, default=1000, help="training games of size tiny")
    games = between("--games", parser.parse_args().games, 1, 10_000)
    for profits, pairs in sorted(measure(games).items(), reverse=True):
        helped, alone = map(fmean, zip(*pairs, strict=True))
        share, words = 100 * len(pairs) / games, "profit" if profits else "do not profit"
        print(f"{share:.0f} % of the games {words}: {helped:.1f} steps with the helper, {alone:.1f} without")


if __name__ == "__main__":
    run_script(main)
