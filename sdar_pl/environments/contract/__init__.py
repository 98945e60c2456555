"""The contract of an environment, as checks that run on any class: ours in the tests, yours by ``check-env``.

A check is a generator of violations, one line each; its docstring is the clause of the contract. Left out: time limits
(a session that hangs hangs the check), and whether the words make sense to a policy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sdar_pl.environments.contract import sessions, tasks, wording
from sdar_pl.environments.contract.plays import ContractError, NotCheckedError, Subject
from sdar_pl.environments.observations import brief
from sdar_pl.errors import UserError

__all__ = ["CHECKS", "Report", "Subject", "check"]

Check = Callable[[Subject], Iterator[str]]

#: every clause of the contract by name, in the order in which they are checked
CHECKS: dict[str, Check] = {
    function.__name__: function
    for function in (
        *(tasks.tasks, tasks.stable, tasks.kinds, tasks.splits, tasks.unknown_split, tasks.untouched),
        *(
            sessions.episodes,
            sessions.observations,
            sessions.first_observation,
            sessions.after_done,
            sessions.single_use,
        ),
        *(sessions.deterministic, sessions.threads, sessions.admissible, sessions.close, sessions.expert_plan),
        *(wording.parse, wording.conversation, wording.window, tasks.plain_data),
    )
}


@dataclass
class Report:
    """What ``check`` found. Both dictionaries are by the check's name.

    Example:
        ``Report(violations={"window": ["window(steps=0) after 5 turns (task t/1) shows 5 actions; must show the last
        0"]}, unchecked={"splits": "one split was named"})``
    """

    violations: dict[str, list[str]] = field(default_factory=dict)
    unchecked: dict[str, str] = field(default_factory=dict)


def check(subject: Subject) -> Report:
    """Run every check. A violation that several checks meet is reported once. Raises what the environment raises as
    ``UserError``: bad input."""
    report, seen = Report(), set[str]()
    for name, function in CHECKS.items():
        for line in _lines(name, function, subject, report):
            if line not in seen:
                seen.add(line)
                report.violations.setdefault(name, []).append(line)
    return report


def _lines(name: str, function: Check, subject: Subject, report: Report) -> Iterator[str]:
    try:
        yield from function(subject)
    except ContractError as error:
        yield str(error)
    except NotCheckedError as reason:
        report.unchecked[name] = str(reason)
    except UserError:
        raise
    except Exception as error:  # an environment may break its contract in ways that a check does not expect
        yield f"the check ended with {type(error).__name__}: {brief(str(error))}"
