"""Numbers in words, and texts made safe to show, for tables, messages and logs."""

from __future__ import annotations

import re
from urllib.parse import quote

#: Everything but printable ASCII, which is most of any text.
_UNUSUAL = re.compile(r"[^ -~]")


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


def shown(text: object, most: int = 2000) -> str:
    r"""A text of somebody else on one line: control characters are escaped ("\x1b[2J"), of a long text its beginning.

    Line breaks, directions of writing and lone surrogates are escaped like control characters.
    """
    return _UNUSUAL.sub(
        lambda found: found[0] if found[0].isprintable() else repr(found[0])[1:-1], cut(str(text), most)
    )


def cut(text: str, most: int) -> str:
    """The first ``most`` characters of a text and, where more follow, a note with their number."""
    return text if len(text) <= most else f"{text[:most]}… [cut here: {len(text):,} characters in all]"


def one_line(text: object, most: int = 2000) -> str:
    """A message on one line: runs of white space become a space, other control characters are escaped."""
    return shown(" ".join(str(text)[: 2 * most].split()), most)


def markdown_cell(text: str) -> str:
    """A text that ends neither its cell nor its row of a Markdown table."""
    return shown(text).replace("|", r"\|")


def metric_name(kind: str) -> str:
    """A kind of task as the last part of a metric's name: letters, digits, spaces and ``_.-+:()`` as they are, other
    characters percent-encoded, so that no kind breaks a name, a line or a column apart."""
    return re.sub(r"[^\w .+:()-]", lambda found: quote(found[0], safe="", errors="surrogatepass"), cut(kind, 200))
