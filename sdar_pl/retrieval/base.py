"""Passage and PassageRetriever: queries → the best passages for each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Passage:
    """A part of a text that a query can find.

    Example:
        ``Passage("7", "Varnholm", "Varnholm lies on the river Brenna.", score=3.2)``
    """

    id: str
    title: str
    text: str
    score: float = 0.0

    @property
    def contents(self) -> str:
        """Title in quotation marks, a line break, the text: Search-R1's form of a passage."""
        return f'"{self.title}"\n{self.text}'


def from_contents(id: str, contents: str, score: float = 0.0) -> Passage:
    """The passage whose ``contents`` are given. A text of one line has no title."""
    title, line_break, text = contents.strip().partition("\n")
    if not line_break:
        return Passage(id, "", title, score)
    return Passage(id, title.strip().strip('"'), text.strip(), score)


class PassageRetriever(ABC):
    """A rule that finds passages. ``retrieve`` is called from several threads at the same time."""

    @abstractmethod
    def retrieve(self, queries: Sequence[str], topk: int) -> list[list[Passage]]:
        """At most ``topk`` passages for each query, the best first.

        Raises ``UserError`` where no passages can be had at all (a server is down), so that the run ends and can be
        resumed; never an empty list instead.
        """

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Give back what the retriever holds (connections)."""
