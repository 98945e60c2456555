"""Transcript: an episode in the terminal while it is played, its response tokens in the colour of their gap.

Colours and levels are those of the report's page. Without a terminal, or without colours, the figures of each response
say the same. Texts of models and environments are shown with their control characters escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.style import Style
from rich.text import Text

from sdar_pl.runtime.words import cut, shown
from sdar_pl.types import Episode, Turn

#: |Δ| in nats from which a token has the first, the second, … colour
LEVELS = (0.0005, 0.05, 0.2, 0.5, 1.0)
ENDORSED = ("#e3eef8", "#c3dcf1", "#9cc6ea", "#71aee0", "#4f9bd6")
REJECTED = ("#fdebd8", "#fbd5ad", "#f7bc7e", "#f2a251", "#ec8a2d")
#: characters of a text that are shown
MOST = 4_000
#: token ids → text
Decode = Callable[[list[int]], str]


class Transcript:
    """Prints an episode turn by turn, as ``rollout.play`` shows it to a watcher.

    Args:
        console: where to print.
        decode: token ids → text.
        gaps: an episode → Δ of each token of its last response; None where there is nothing to compare.
    """

    def __init__(
        self, console: Console, decode: Decode, gaps: Callable[[Episode], Sequence[float] | None] = lambda _: None
    ) -> None:
        self.console, self.decode, self.gaps = console, decode, gaps

    def __call__(self, episode: Episode) -> None:
        """Print what is new: the first observation, or the last turn with the observation that answers it."""
        if not episode.turns:
            self.observation(episode.first.text)
            return
        self.response(len(episode.turns), episode.turns[-1], self.gaps(episode))
        self.observation(episode.turns[-1].observation.text)

    def line(self, name: str, text: str) -> None:
        """A named line: the task, the player, the outcome."""
        self.console.print(Text.assemble((f"{name:<9}", "bold"), shown(text)))

    def observation(self, text: str) -> None:
        self.console.print(Text("\n".join(f"  {line}" for line in lines_of(text)), "dim"))

    def response(self, number: int, turn: Turn, gaps: Sequence[float] | None) -> None:
        """A response, the action that the environment reads in it, and its gap."""
        end = len(turn.response)
        text = Text.assemble((f"{number:>3} ", "bold"), coloured(turn.response, gaps or [0.0] * end, self.decode))
        self.console.print(text)
        if not turn.valid:
            self.console.print(Text(f"    breaks the format; taken as: {shown(turn.action, 200)}", "italic"))
        if gaps:
            self.console.print(Text(f"    {figures(turn.response, gaps, self.decode)}", "italic dim"))

    def legend(self) -> None:
        """What the colours mean."""
        values = [-1.0, -0.5, -0.2, -0.05, 0.0, 0.05, 0.2, 0.5, 1.0]
        parts = [(f" {value:+.2f} " if value else "  0  ", style_of(value)) for value in values]
        self.console.print(Text.assemble(("gap Δ    ", "bold"), "rejected ", *parts, " endorsed by the teacher"))

    def outcome(self, episode: Episode) -> None:
        words = ["success" if episode.success else "no success", f"reward {episode.reward:.2f}"]
        words += [f"score {episode.score:.2f}"] if episode.score is not None else []
        words += ["the conversation outgrew its limit"] if episode.overflow else []
        turns = len(episode.turns)
        self.line("end", " · ".join([*words, f"{turns} turn{'s' * (turns != 1)}"]))


def style_of(gap: float) -> Style:
    """The style of a token: blue where the teacher finds it likelier, orange and underlined where less likely."""
    level = sum(abs(gap) >= low for low in LEVELS)
    if not level:
        return Style.null()
    colours = ENDORSED if gap > 0 else REJECTED
    return Style(color="#000000", bgcolor=colours[level - 1], underline=gap < 0 and level > 1)


def coloured(tokens: Sequence[int], gaps: Sequence[float], decode: Decode) -> Text:
    """A response, every token in its style. Tokens that make one character together have the first one's."""
    text = Text()
    for first, piece in pieces(tokens, decode):
        text.append("\n    ".join(shown(line) for line in piece.split("\n")), style_of(gaps[first]))
    return text


def pieces(tokens: Sequence[int], decode: Decode) -> Iterator[tuple[int, str]]:
    """The text of a response in whole characters: (index of the piece's first token, its text).

    A token of a byte-level tokenizer may hold a part of a character only.
    """
    first = 0
    for end in range(1, len(tokens) + 1):
        piece = decode(list(tokens[first:end]))
        if piece.endswith("\ufffd") and end - first < 4 and end < len(tokens):
            continue
        yield first, piece
        first = end


def figures(tokens: Sequence[int], gaps: Sequence[float], decode: Decode) -> str:
    """The gap of a response in one line."""
    lowest = min(range(len(gaps)), key=lambda place: gaps[place])
    rejected = sum(gap <= -LEVELS[0] for gap in gaps)
    text = f"gap: mean {sum(gaps) / len(gaps):+.3f}, {rejected} of {len(gaps)} tokens rejected"
    return f"{text}, lowest {gaps[lowest]:+.3f} at {shown(decode([tokens[lowest]]), 40)!r}" if rejected else text


def lines_of(text: str) -> list[str]:
    """The lines of a text's beginning, control characters escaped; at least one."""
    return [shown(line, MOST) for line in cut(text, MOST).splitlines()] or [""]
