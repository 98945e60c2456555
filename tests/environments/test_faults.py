"""Faulty: faults at the given rates, the same for the same session, and nothing else changed."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from threading import Thread

import pytest
from helpers.example_environment import Guess
from helpers.worlds import Echo, eventually

from sdar_pl.environments.base import Environment
from sdar_pl.environments.faults import NONSENSE, Faulty, InjectedError, spoilt
from sdar_pl.environments.household import Household
from sdar_pl.environments.observations import ObservationError, received
from sdar_pl.errors import UserError
from sdar_pl.skills.hindsight import ReferenceSolution
from sdar_pl.types import Observation, Task

RATES = {"exceptions": 0.05, "hangs": 0.01, "nonsense": 0.1, "slow": 0.04}
TASK = Task("7", "echo", "task 7")


def drawn(world: Faulty, number: int, task: Task = TASK, calls: int = 200) -> list[str]:
    return [fault for fault, _ in islice(world.faults(task, number), calls)]


def test_rates() -> None:
    counts = Counter(drawn(Faulty(Echo(), **RATES), 0, calls=100_000))
    for name, rate in RATES.items():
        assert counts[name] == pytest.approx(100_000 * rate, rel=0.1)
    assert set(drawn(Faulty(Echo()), 0)) == {""}


def test_the_faults_depend_on_seed_task_and_session_alone() -> None:
    world = Faulty(Echo(), **RATES)
    first = drawn(world, 0)
    assert first == drawn(Faulty(Echo(), **RATES), 0)
    others = [drawn(world, 1), drawn(world, 0, Task("8", "echo", "x")), drawn(Faulty(Echo(), **RATES, seed=1), 0)]
    assert all(other != first for other in others)
    # A task's sessions are counted as they are opened.
    for number in range(3):
        session = Faulty.session(world, TASK)
        assert [fault for fault, _ in islice(session.faults, 200)] == drawn(world, number)  # type: ignore[attr-defined]


def test_every_nonsense_is_refused_where_it_arrives() -> None:
    good = Observation("x", ("go",), 1.0)
    assert received(good) == good
    for fields in NONSENSE:
        with pytest.raises(ObservationError):
            received(spoilt(good, fields))


def test_each_fault_is_what_it_is_called() -> None:
    with pytest.raises(InjectedError, match=r"reset\(\) raises"):
        Faulty(Echo(), exceptions=1).session(TASK).reset()
    slow = Faulty(Echo(), slow=1, delay=0)
    assert slow.session(TASK).reset() == Echo().session(TASK).reset()
    assert slow.injected == {"slow": 1}


def test_a_hang_ends_when_the_session_is_closed() -> None:
    world = Faulty(inner := Echo(), hangs=1)
    session, raised = world.session(TASK), list[BaseException]()

    def play() -> None:
        try:
            session.reset()
        except InjectedError as error:
            raised.append(error)

    thread = Thread(target=play, daemon=True)
    thread.start()
    eventually(lambda: world.injected["hangs"] == 1)
    thread.join(0.05)
    assert thread.is_alive()
    session.close()
    thread.join(20)
    assert "hung until the session was closed" in str(raised[0])
    assert inner.closed == ["7"]


def test_what_is_wrapped_keeps_its_words_and_its_solutions() -> None:
    home = Household(size="tiny", kinds=["look_at_obj_in_light"])
    world = Faulty(home, exceptions=0.5)
    task = home.tasks("train")[0]
    assert (world.kinds, world.tasks("train")[0]) == (home.kinds, task)
    assert world.expert_plan(task) == home.expert_plan(task)
    context = ReferenceSolution()
    context.bind(world, 4)
    assert home.expert_plan(task)[-1] in context.provide(task)
    without = type("Bare", (Guess,), {"expert_plan": Environment.expert_plan})()
    with pytest.raises(UserError, match="no reference solutions"):
        context.bind(Faulty(without), 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exceptions": 1.5}, r"^data\.environment\.exceptions: 1\.5; must be ≥ 0 and ≤ 1$"),
        ({"hangs": float("nan")}, r"^data\.environment\.hangs: nan; must be"),
        ({"delay": -1.0}, r"^data\.environment\.delay: -1; must be ≥ 0$"),
        ({"nonsense": 0.6, "slow": 0.6}, r"^data\.environment: exceptions, .* add up to 1\.2; must be ≤ 1$"),
    ],
)
def test_bad_rates(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Faulty(Echo(), **options)  # type: ignore[arg-type]
