"""The report as one file: its data arrive whole, nothing of a run is HTML, and its size has a limit."""

from __future__ import annotations

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from helpers.report_runs import HOSTILE, write_run

from sdar_pl.cli import main
from sdar_pl.reports import page
from sdar_pl.reports.run_files import RunFiles, read_run


class Elements(HTMLParser):
    """The elements of a page, and what its script of data holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.data = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][1].get("id") == "data":
            self.data += data


def data_of(path: Path) -> dict[str, Any]:
    text = Elements(path.read_text(encoding="utf-8")).data.strip()
    return dict(json.loads(gzip.decompress(base64.b64decode(text))))


def written(run: RunFiles, path: Path, decode: page.Decode | None = None) -> dict[str, Any]:
    page.write_page([run], path, decode, "run")
    return data_of(path)


def test_episodes_arrive_whole(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"), 100)
    data = written(run, tmp_path / "a.html", lambda ids: f"t{ids[0]}")
    assert len(data["episodes"]) == data["played"] == 24
    row = next(row for row in data["episodes"] if data["strings"][row[2]] == "train")
    assert data["strings"][row[13]] == "Open the fridge first."
    text, _, _, valid, _, advantage, tokens, logprobs, gap, gate = row[15][1]
    assert (data["strings"][text], valid, advantage) == ("go to shelf 1", 0, -0.5)
    assert [data["tokens"][str(token)] for token in tokens] == ["t300", "t302", "t302"]
    assert (logprobs, gap, gate) == ([0, -1.5, -0.25], [0, -1.25, 0.5], [0.5, 0.002, 0.924])


def test_tokens_without_a_text_are_numbers(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"), 100)

    def decode(ids: list[int]) -> str:
        if ids == [300]:
            raise OverflowError
        return ""

    assert written(run, tmp_path / "a.html")["tokens"]["302"] == "⟨302⟩"
    assert written(run, tmp_path / "b.html", decode)["tokens"] == {"300": "⟨300⟩", "301": "⟨301⟩", "302": "⟨302⟩"}


def test_the_page_needs_nothing_else_and_holds_no_text_of_a_run_as_html(tmp_path: Path) -> None:
    plain, hostile = (
        read_run(write_run(tmp_path / name, text=text), 100) for name, text in (("a", ""), ("b", HOSTILE))
    )
    page.write_page([plain], tmp_path / "plain.html", lambda _: "x", "run")
    page.write_page([hostile], tmp_path / "hostile.html", lambda _: HOSTILE, HOSTILE)
    texts = [(tmp_path / name).read_text(encoding="utf-8") for name in ("plain.html", "hostile.html")]
    one, other = (re.sub(r'(id="data">)[^<]*', r"\1", text) for text in texts)
    assert one == other, "only the coded data differ"
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", one)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", one)
    elements = Elements(texts[1]).found
    (policy,) = [attributes["content"] or "" for _, attributes in elements if "http-equiv" in attributes]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not [name for name, attributes in elements if {"src", "srcset"} & attributes.keys()]


def test_a_page_over_the_limit_leaves_episodes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = read_run(write_run(tmp_path / "run", train=40), 1000)
    whole, number = page.write_page([run], tmp_path / "a.html", None, "run")
    assert number == 96
    monkeypatch.setattr(page, "LARGEST", whole - 1)
    size, number = page.write_page([run], tmp_path / "a.html", None, "run")
    assert size == (tmp_path / "a.html").stat().st_size < whole
    assert 85 < number < 96, "no more is left out than must be"
    assert data_of(tmp_path / "a.html")["played"] == 96
    monkeypatch.setattr(page, "LARGEST", 0)
    assert page.write_page([run], tmp_path / "a.html", None, "run")[1] == 0


# ---------------------------------------------------------------------- the command


def test_the_command_writes_beside_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run")
    assert main(["report", str(folder)]) == 0
    assert f"wrote {folder / 'report.html'}: 1 run, 24 of 24 episodes" in capsys.readouterr().out
    tokens = data_of(folder / "report.html")["tokens"]
    assert not any(text.startswith("⟨") for text in tokens.values()), "texts of the packaged tokenizer"


def test_a_model_that_is_not_here_shows_numbers(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    config = (folder / "config.yaml").read_text().replace("tiny-household", "nobody/no-such-model")
    (folder / "config.yaml").write_text(config)
    with pytest.warns(UserWarning, match="tokens are shown as numbers: no tokenizer"):
        assert main(["report", str(folder), "--out", str(tmp_path / "a.html"), "--episodes", "5"]) == 0
    data = data_of(tmp_path / "a.html")
    assert (len(data["episodes"]), data["tokens"]["300"]) == (5, "⟨300⟩")


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    for arguments, message in [
        (["report"], "error: report: the following arguments are required: RUN"),
        (["report", str(tmp_path / "none")], f"error: RUN: {tmp_path / 'none'}: there is no such folder; name"),
        (["report", str(tmp_path / "empty")], f"error: RUN: {tmp_path / 'empty'}: it holds no metrics.csv; name"),
        (["report", str(folder), "--episodes", "-1"], "error: --episodes: -1; must be ≥ 0"),
        (["report", str(folder), "--out", "/proc/no/a.html"], "error: --out: cannot write /proc/no/a.html"),
    ]:
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith(message)
        assert error.count("\n") == 1
    assert not (folder / "report.html").exists()
