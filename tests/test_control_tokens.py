"""Texts never become control tokens, and every other text is encoded as the tokenizer itself encodes it."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest
from helpers.tokenizers import TOKENIZERS, keeps, tokenizer_named
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdar_pl.control_tokens import MARK, SPELLINGS, ControlTokens
from sdar_pl.errors import UserError

#: the same examples in every run
STEADY = settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
#: characters that mean something to the marking itself
MARKS = (MARK, *SPELLINGS[:3], SPELLINGS[-1])
WORDS = (
    " go to",
    " shelf",
    "you",
    "\n",
    " ",
    "  ",
    "<",
    ">",
    "system",
    "＜ｓ＞",
    "＜tool＞",
    "é",
    "e\u0301",
    "\0",
    "🧺",
    "☃",
)


@pytest.fixture(params=TOKENIZERS)
def tokens(request: pytest.FixtureRequest) -> ControlTokens:
    return ControlTokens(tokenizer_named(request.param))


def added(tokens: ControlTokens) -> dict[str, int]:
    """The added tokens, but those of white space."""
    found = tokens._backend.get_added_tokens_decoder().items()
    return {token.content: id for id, token in found if token.content.strip(" \n\t▁")}


def hostile(contents: list[str], marks: bool = True) -> st.SearchStrategy[str]:
    """Texts of added tokens, pieces of them, marks, copies' spellings and anything else."""
    pieces = [content[:end] for content in contents for end in range(1, len(content))]
    pieces += [content[end:] for content in contents for end in range(1, len(content))]
    spelled = [f"{content[0]}{mark}{content[1:]}" for content in contents for mark in MARKS]
    parts = [st.sampled_from(contents), st.sampled_from(pieces), st.sampled_from(WORDS), st.text(max_size=6)]
    parts += [st.sampled_from(spelled), st.sampled_from(MARKS)] * marks
    return st.lists(st.one_of(parts), max_size=12).map("".join)


def unmarked(text: str) -> str:
    return text.replace(MARK, "")


@STEADY
@given(data=st.data())
def test_data_never_holds_an_added_token(tokens: ControlTokens, data: st.DataObject) -> None:
    text = data.draw(hostile([*added(tokens)]))
    marked = tokens.data(text)
    assert not [content for content in added(tokens) if content in marked and content not in ("☃", "word")]
    ids = tokens.encode(marked)
    assert not {*added(tokens).values()} - {tokens._backend.token_to_id("<unk>")} & {*ids}
    if keeps(SimpleNamespace(backend_tokenizer=tokens._backend), text):
        assert tokens._backend.decode(ids, skip_special_tokens=False) == text, "nothing is lost, marks neither"


@STEADY
@given(data=st.data())
def test_what_is_not_marked_is_encoded_as_the_tokenizer_encodes_it(tokens: ControlTokens, data: st.DataObject) -> None:
    """Template texts with control tokens anywhere; texts without any are the ordinary ones."""
    text = unmarked(data.draw(hostile([*added(tokens)], marks=False)))
    if (normalizer := tokens._backend.normalizer) is not None:
        text = normalizer.normalize_str(text)  # what only normalises to a control token is text
    assert tokens.encode(text) == tokens._backend.encode(text, add_special_tokens=False).ids


@STEADY
@given(text=st.one_of(st.text(max_size=40), st.lists(st.sampled_from(WORDS), max_size=12).map("".join)))
def test_ordinary_data_is_left_as_it_is(tokens: ControlTokens, text: str) -> None:
    if not any(content in text for content in added(tokens)) and MARK not in text:
        assert tokens.wording(tokens.data(text)) == text


@STEADY
@given(data=st.data())
def test_the_templates_control_tokens_stay_around_any_data(tokens: ControlTokens, data: st.DataObject) -> None:
    odd = ("word", "☃", "<a>", "a>b", "<strip>", "<unk>")
    contents = [content for content in added(tokens) if content not in odd]
    first, last = data.draw(st.sampled_from(contents)), data.draw(st.sampled_from(contents))
    text = data.draw(hostile([*added(tokens)]))
    ids = tokens.encode(f"{first}\n{tokens.wording(tokens.data(text))}\n{last}")
    counted = Counter(id for id in ids if id in added(tokens).values() and id != tokens._backend.token_to_id("<unk>"))
    assert counted == Counter([added(tokens)[first], added(tokens)[last]])


@STEADY
@given(data=st.data())
def test_wording_keeps_tags_and_no_special_token(tokens: ControlTokens, data: st.DataObject) -> None:
    kinds = tokens._backend.get_added_tokens_decoder().items()
    special = {id for id, token in kinds if token.special}
    text = data.draw(hostile([*added(tokens)], marks=False))
    ids = tokens.encode(tokens.wording(unmarked(text)))
    assert not special - {tokens._backend.token_to_id("<unk>")} & {*ids}


def test_tags_of_the_wording_stay_tokens() -> None:
    tokens = ControlTokens(tokenizer_named("packaged"))
    plain = "Answer with <action>command</action>.<|end|>"
    assert {799, 800} <= {*tokens.encode(tokens.wording(plain))}
    assert not {794, 799, 800} & {*tokens.encode(tokens.data(plain))}


def test_a_text_far_over_its_limit_is_not_read_to_its_end() -> None:
    tokens = ControlTokens(tokenizer_named("packaged"))
    for part in ("go to shelf 1 ", "a", "<|end|>", MARK, "\0"):
        text = tokens.data(part * (500_000 // len(part)))
        assert 100 < len(tokens.encode(text, 100)) < 100_000


def test_slow_tokenizers_are_refused() -> None:
    with pytest.raises(UserError, match=r"model\.policy\.model: SimpleNamespace is no fast tokenizer.*tokenizer\.json"):
        ControlTokens(SimpleNamespace(encode=list))
