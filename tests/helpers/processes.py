"""Processes of this machine, as Linux lists them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def running(pid: int) -> bool:
    """Whether a process lives; one that has ended and was not waited for does not."""
    return _stat(pid)[:1] not in ([], ["Z"])


def descendants(pid: int) -> set[int]:
    """The processes that a process has started, those that they have started, and so on."""
    parents = {int(path.name): _stat(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit()}
    found, new = set[int](), {pid}
    while new:
        new = {child for child, stat in parents.items() if stat and int(stat[1]) in new}
        found |= new
    return found


def words(pid: int) -> str:
    """The command line of a process, or "" where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


def until(condition: Callable[[], object], seconds: float) -> bool:
    """Wait until something holds → whether it does."""
    end = time.monotonic() + seconds
    while not (holds := bool(condition())) and time.monotonic() < end:
        time.sleep(0.1)
    return holds


def _stat(pid: int) -> list[str]:
    """State, parent, group and more of a process; nothing where it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
