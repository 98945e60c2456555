"""Texts of somebody else made safe to show: on one line, without control characters, at a bounded length."""

from __future__ import annotations

import json
from urllib.parse import unquote

from helpers.hostile import NASTY
from hypothesis import given, settings
from hypothesis import strategies as st

from sdar_pl.runtime.words import cut, markdown_cell, metric_name, one_line, shown

#: also lone surrogates
ANY = st.text(st.characters(exclude_categories=()), max_size=60) | st.just(NASTY)
STEADY = settings(derandomize=True, deadline=None, max_examples=200)


@STEADY
@given(text=ANY)
def test_shown_text_is_one_printable_line(text: str) -> None:
    for made in (shown(text), one_line(text), markdown_cell(text), metric_name(text)):
        assert made.isprintable()
        assert json.loads(json.dumps(made)) == made.encode("utf-8").decode(), "no lone surrogate is left"
    if text.isprintable():
        assert shown(text) == text


@STEADY
@given(text=ANY)
def test_metric_names_tell_kinds_apart_and_break_nothing(text: str) -> None:
    name = metric_name(text)
    assert not {*name} & {*"/,\"'\n\r|"}
    assert unquote(name, errors="surrogatepass") == text


def test_kinds_that_break_nothing_keep_their_names() -> None:
    for kind in ("pick_and_place_simple", "multi hop (2)", "étage-3.1", "a:b+c"):
        assert metric_name(kind) == kind
    assert metric_name("a/b, c\n") == "a%2Fb%2C c%0A"


def test_a_cell_of_markdown_is_one_cell() -> None:
    assert markdown_cell("a|b\nc") == r"a\|b\nc"


def test_of_a_long_text_the_beginning_is_shown_and_its_length_said() -> None:
    assert cut("abc", 3) == "abc"
    assert cut("abcd" * 1000, 3) == "abc… [cut here: 4,000 characters in all]"
    assert len(one_line("x" * 10_000_000)) < 2100
    assert one_line("a\n  b\x1b[2J") == r"a b\x1b[2J"
