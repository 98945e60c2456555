"""Progress of work that may take minutes: a bar on a terminal; elsewhere a line now and then. Both go to stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from sdar_pl.runtime.words import shown

#: seconds between two lines
PAUSE = 20.0
#: receives the part of the total that is done
Done = Callable[[float], None]


@contextmanager
def long_work(words: str, total: float | None = None) -> Iterator[Done]:
    """Show that ``words`` ("indexing wiki.jsonl") go on → the function that receives how far they are.

    Args:
        words: what is done, on one line.
        total: what the function receives at the end; None: not known.
    """
    words = shown(words, 80)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if console.is_terminal:
        columns = TextColumn("{task.description}", markup=False), BarColumn(24), TimeElapsedColumn()
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(words, total=total)
            yield lambda done: progress.update(task, completed=done)
        return
    began = reported = time.monotonic()

    def report(done: float) -> None:
        nonlocal reported
        if (now := time.monotonic()) - reported > PAUSE:
            reported = now
            share = f"{done / total:.0%}, " if total else ""
            console.print(f"{words} ({share}{now - began:.0f} s)", markup=False)

    yield report


def hide_bars_of_loading() -> None:
    """Switch off transformers' bars of loading weights; a download from the hub keeps its bar."""
    from huggingface_hub.constants import HF_HUB_DISABLE_PROGRESS_BARS
    from huggingface_hub.utils.tqdm import enable_progress_bars
    from transformers.utils import logging

    logging.disable_progress_bar()
    if HF_HUB_DISABLE_PROGRESS_BARS is None:
        enable_progress_bars()
