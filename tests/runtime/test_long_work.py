"""Progress of long work: a bar on a terminal, a line now and then elsewhere, and where it is shown."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import webshop
from helpers.report_runs import write_run
from helpers.runs import ENVIRONMENT

from sdar_pl.environments.webshop.ingest import opened
from sdar_pl.reports.run_files import read_run
from sdar_pl.retrieval.bm25 import BM25
from sdar_pl.runtime import long_work as module
from sdar_pl.runtime.long_work import long_work


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE":
        monkeypatch.delenv(name, raising=False)


def test_a_file_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with long_work("reading it", 10) as done:
        done(5)
    assert capsys.readouterr().err == "", "not before the pause is over"
    monkeypatch.setattr(module, "PAUSE", -1.0)
    with long_work("reading [b]it[/b]\x1b[2J", 10) as done:
        done(5)
    with long_work("thinking") as done:
        done(5)
    assert capsys.readouterr().err == "reading [b]it[/b]\\x1b[2J (50%, 0 s)\nthinking (0 s)\n"


def read_a_run(folder: Path) -> None:
    read_run(write_run(folder / "run"), 10)


def index_a_corpus(folder: Path) -> None:
    (folder / "wiki.jsonl").write_text(json.dumps({"id": "1", "contents": '"Town"\nA town.'}) + "\n")
    BM25(str(folder / "wiki.jsonl"))


def ingest_products(folder: Path) -> None:
    files = webshop.write(folder, [webshop.record("B01", "a mug")], {"B01": {"attributes": ["blue"]}})
    opened(Path(files["products"]), Path(files["attributes"]), None, Path(files["store"]))


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (read_a_run, ["reading run/episodes.jsonl"]),
        (index_a_corpus, ["indexing wiki.jsonl"]),
        (
            ingest_products,
            ["reading items_ins_v2_1000.json", "reading items_shuffle_1000.json", "indexing the products"],
        ),
    ],
)
def test_a_terminal_gets_a_bar_for(
    work: Callable[[Path], Any],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    work(tmp_path)
    said = capsys.readouterr().err
    assert all(word in said for word in words)
    assert said.count("\x1b[?25l") == said.count("\x1b[?25h") == len(words), "the cursor comes back"


def test_downloads_keep_their_bar() -> None:
    program = (
        "from sdar_pl.runtime.messages import quieten\n"
        "quieten()\n"
        "from huggingface_hub.utils import are_progress_bars_disabled as hidden\n"
        "from sdar_pl.runtime.long_work import hide_bars_of_loading\n"
        "from transformers.utils import logging\n"
        "hide_bars_of_loading()\n"
        "print(hidden(), logging.is_progress_bar_enabled())"
    )
    for setting, said in ("", "False False"), ("1", "True False"):
        environment = {**ENVIRONMENT, "HF_HUB_DISABLE_PROGRESS_BARS": setting}
        if not setting:
            del environment["HF_HUB_DISABLE_PROGRESS_BARS"]
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert (done.stdout.strip(), done.stderr) == (said, "")
