"""Words of a text, as the embedded index counts them."""

from __future__ import annotations

import re

_WORD = re.compile(r"\w+")
#: words that occur in most passages and tell none from another
# fmt: off
STOP = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "by", "did", "do", "does", "for", "from", "had", "has", "have", "he",
    "her", "his", "how", "in", "is", "it", "its", "of", "on", "or", "she", "that", "the", "they", "this", "to", "was",
    "were", "what", "when", "where", "which", "who", "with",
))
# fmt: on


def words(text: str) -> list[str]:
    """The words of a text in lower case, without ``STOP``."""
    return [word for word in _WORD.findall(text.lower()) if word not in STOP]
