"""All Markdown pages: links, quoted tests and files exist, lines fit, README's reading order is the architecture's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.pages import links, pages, prose

PAGES = pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
TESTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}


def functions_in(file: str) -> set[str]:
    """Test functions of the files that ``file`` ("tests/a/test_b.py", "test_b.py") can mean."""
    texts = [text for name, text in TESTS.items() if name == file or ("/" not in file and name.endswith(f"/{file}"))]
    return {name for text in texts for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}


def missing_tests(text: str) -> list[str]:
    """``tests/…`` paths, ``test_b.py``, ``test_b.py::test_c`` and ``test_c`` in ``text`` that do not exist."""
    every = set().union(*map(functions_in, TESTS))
    paths = re.findall(r"\btests/[\w/.]*\w/?", text)
    missing = [path for path in paths if not (ROOT / path).exists()]
    for file, test in re.findall(r"((?:tests/)?[\w/]*test_\w+\.py)(?:::(test_\w+))?", text):
        # A path that starts with a variable ("$SDAR_PL/tests/…") names a file of this repository, too.
        tests = functions_in(file.removeprefix("/"))
        if not tests or (test and test not in tests):
            missing.append(f"{file}::{test}")
    names = re.findall(r"\btest_\w+\b(?!\.py|\w*/)", text)
    return missing + [name for name in names if name not in every]


@PAGES
def test_links_lead_somewhere(page: Path) -> None:
    assert [target for target in links(page) if not (page.parent / target).exists()] == []


@PAGES
def test_quoted_tests_exist(page: Path) -> None:
    assert missing_tests(page.read_text()) == []


def test_a_missing_test_is_noticed() -> None:
    assert missing_tests("`tests/no/test_such.py`")
    assert missing_tests("`test_walk.py::test_no_such_walk`")
    assert missing_tests("`test_no_such_walk`")
    assert not missing_tests("`tests/test_walk.py::test_the_walk`, `test_every_stop_exists`, tests/helpers/")


@PAGES
def test_prose_fits_its_line(page: Path) -> None:
    assert [line for line in prose(page) if len(line) > 120] == []


@PAGES
def test_no_command_has_a_gap(page: Path) -> None:
    blocks = re.findall(r"^ {4}((?:python|pytest|pip)\b.*)$", page.read_text(), re.MULTILINE)
    assert [line for line in blocks if re.search(r"…|<\w+>", line.partition(" # ")[0])] == []


@PAGES
def test_the_site_s_navigation_has(page: Path) -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1]
    assert re.search(rf"(- |: ){re.escape(page.relative_to(ROOT).as_posix())}$", navigation, re.MULTILINE)


def reading_order() -> list[str]:
    """The files that docs/architecture.md numbers, in the order of the numbers, without ending."""
    listing = (ROOT / "docs" / "architecture.md").read_text()
    numbered = re.findall(r"^ +([\w/.]+) +(\d) ", listing, re.MULTILINE)
    return [file.rstrip("/").removesuffix(".py") for file, _ in sorted(numbered, key=lambda pair: int(pair[1]))]


def test_readme_has_the_reading_order_of_architecture() -> None:
    text = (ROOT / "README.md").read_text()
    sentence = re.search(r"Nine files, about ([\d,]+) lines,.*?\.\s", text.replace(".py", "%py"), re.DOTALL)
    assert sentence
    steps = re.findall(r"\[(\w+)\]\((\S+)%py\)", sentence[0])
    assert [name for name, _ in steps] == reading_order()
    lines = sum(len((ROOT / f"{path}.py").read_text().splitlines()) for _, path in steps)
    assert int(sentence[1].replace(",", "")) == pytest.approx(lines, rel=0.15)
