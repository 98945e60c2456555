"""A household whose every text is hostile to whoever shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sdar_pl.environments.base import Session
from sdar_pl.environments.household import Household
from sdar_pl.types import Observation, Task

#: clears a terminal, renames its window, is markup of rich, Markdown, HTML and CSV, and reverses the writing
NASTY = (
    "\x1b[2J\x1b]0;owned\x07 [bold red]x[/] [/nothing] # heading\n\n# heading\r\n```\n![image](http://images.test/a.png)\n"
    "<img src='http://images.test/b.png'> <script>x()</script> a,b|c/d;\"'\u202e\u2028\x9b2J\0"
)
CONTROLS = {chr(code) for code in (*range(32), *range(127, 160))} - {"\n", "\t"}


@dataclass
class HostileSession(Session):
    """The inner session, NASTY behind every observation; ``broken``: its second step raises NASTY."""

    inner: Session
    broken: bool
    huge: bool
    steps: int = 0

    def reset(self) -> Observation:
        return self._nasty(self.inner.reset())

    def step(self, action: str) -> Observation:
        self.steps += 1
        if self.broken:
            raise RuntimeError(f"{NASTY} [/nothing]")
        return self._nasty(self.inner.step(action))

    def close(self) -> None:
        self.inner.close()

    def _nasty(self, seen: Observation) -> Observation:
        more = "x" * 10_000_000 if self.huge and self.steps else ""
        return replace(seen, text=f"{seen.text}{NASTY}{more}")


class Hostile(Household):
    """Tiny games. Every third task's sessions break, every fourth answers with ten megabytes."""

    def __init__(self, validation_tasks: int = 6) -> None:
        super().__init__(size="tiny", validation_tasks=validation_tasks)
        self.house = Household(size="tiny", validation_tasks=validation_tasks)
        self.kinds = tuple(f"{kind} {NASTY}" for kind in self.house.kinds)

    def tasks(self, split: str) -> Sequence[Task]:  # type: ignore[override]
        tasks, more = list(self.house.tasks(split)[:12]), f" {NASTY}"
        return [replace(t, id=f"{t.id}{more}", kind=f"{t.kind}{more}", text=f"{t.text}{more}") for t in tasks]

    def session(self, task: Task) -> Session:  # type: ignore[override]
        number = int(task.id.split(" ")[0].rsplit("/", 1)[1])
        return HostileSession(super().session(task), broken=number % 3 == 1, huge=number % 4 == 2)


class Unreadable(Household):
    """Raises where its tasks are listed."""

    def tasks(self, split: str) -> Sequence[Task]:  # type: ignore[override]
        raise RuntimeError(NASTY)
