"""The report as one HTML file that needs no network: the page's own HTML, CSS and JS, and the data of the runs.

The data are JSON, compressed and base64-coded, so that no text of a run is read as HTML. The page's scripts put texts
into text nodes only, and its Content Security Policy runs no script but these (by their hash).
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sdar_pl import __version__
from sdar_pl.modeling.sources import ASSETS
from sdar_pl.reports.report_figures import figures
from sdar_pl.reports.run_files import PageEpisode, PageTurn, RunFiles, safe
from sdar_pl.runtime.files import replacing

FOLDER = ASSETS / "report"
SCRIPTS = ("elements.js", "charts.js", "overview.js", "tokens.js", "episodes.js", "main.js")
#: bytes of a page; a larger one shows fewer episodes, spread evenly
LARGEST = 20_000_000
#: token id → its text; raises for an unknown id
Decode = Callable[[list[int]], str]


def write_page(runs: Sequence[RunFiles], path: Path, decode: Decode | None, title: str) -> tuple[int, int]:
    """Write the report of ``runs`` → (bytes of the file, episodes that it shows). Raises ``OSError``.

    Args:
        runs: the runs, in the order in which the page names them.
        path: the file; it is replaced.
        decode: token ids → text. None: tokens are shown as numbers.
        title: of the page.
    """
    shown_episodes = [(number, episode) for number, run in enumerate(runs) for episode in run.episodes]
    common = {"title": title, "version": __version__, "played": sum(run.played for run in runs), **figures(runs)}
    while True:
        page = html({**common, **packed(shown_episodes, decode)})
        if len(page) <= LARGEST or not shown_episodes:
            break
        number, kept = len(shown_episodes), int(0.95 * len(shown_episodes) * LARGEST / len(page))
        shown_episodes = [shown_episodes[place * number // kept] for place in range(kept)]
    with replacing(path) as partial:
        partial.write_bytes(page)
    return len(page), len(shown_episodes)


def html(data: dict[str, Any]) -> bytes:
    """The page with its data."""
    style = (FOLDER / "page.css").read_text(encoding="utf-8")
    parts = [(FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS]
    script = "\n".join(['"use strict";', *parts])
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    blob = base64.b64encode(gzip.compress(text.encode("ascii"), compresslevel=6, mtime=0)).decode("ascii")
    replaced = {
        "@policy@": f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"script-src {hash_of(script)}; style-src {hash_of(style)}",
        "@style@": style,
        "@script@": script,
        "@data@": blob,
    }
    page = (FOLDER / "page.html").read_text(encoding="utf-8")
    for name, part in replaced.items():
        page = page.replace(name, part, 1)
    return page.encode("utf-8")


def hash_of(text: str) -> str:
    """The source expression by which a Content Security Policy knows an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


# ---------------------------------------------------------------------- episodes


def packed(episodes: Sequence[tuple[int, PageEpisode]], decode: Decode | None) -> dict[str, Any]:
    """Episodes as short lists (assets/report/episodes.js unpacks them), equal texts once, and the texts of tokens."""
    strings: dict[str, int] = {}

    def number(text: str) -> int:
        return strings.setdefault(text, len(strings))

    def turn_of(turn: PageTurn) -> list[Any]:
        texts = number(turn.text), number(turn.action), number(turn.observation)
        facts = int(turn.valid), turn.reward, turn.advantage
        return [*texts, *facts, turn.tokens, turn.logprobs, turn.gap, turn.gate]

    rows = [
        [
            *(run, episode.iteration, number(episode.split), number(episode.task), number(episode.kind)),
            *(number(episode.text), episode.group, episode.index, int(episode.success), episode.reward),
            *(episode.penalty, number(episode.failed), int(episode.overflow), number(episode.context)),
            *(number(episode.first), [turn_of(turn) for turn in episode.turns]),
        ]
        for run, episode in episodes
    ]
    ids = sorted({token for _, episode in episodes for turn in episode.turns for token in turn.tokens})
    return {"episodes": rows, "strings": list(strings), "tokens": {token: piece(token, decode) for token in ids}}


def piece(token: int, decode: Decode | None) -> str:
    """The text of one token, safe to show; its number in brackets where there is no tokenizer, or no such token."""
    if decode is not None:
        try:
            return safe(decode([token])) or f"⟨{token}⟩"
        except (IndexError, KeyError, OverflowError, TypeError, ValueError):
            pass
    return f"⟨{token}⟩"
