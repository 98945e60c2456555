"""Numbers in words, for tables and messages."""

from __future__ import annotations


def bytes_in_words(size: float) -> str:
    """2,147,483,648 → "2.00 GiB"; below 1 GiB in MiB."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def count_in_words(count: int) -> str:
    """1,234,567 → "1.2 M"."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f} {letter}"
    return str(count)


def percent(share: float | None) -> str:
    """0.123 → " 12.3 %", 7 columns wide; None is a dash."""
    return "    –" if share is None else f"{100 * share:5.1f} %"


def duration(seconds: float) -> str:
    """Seconds below 2 minutes, then minutes, then hours: "90 s", "12.5 min", "3.2 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
