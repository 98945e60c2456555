"""WebShop's official files: read, cleaned, counted; an ingest that was interrupted; bad files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.webshop import record, write

from sdar_pl.environments.webshop import WebShop, products
from sdar_pl.environments.webshop.ingest import opened
from sdar_pl.environments.webshop.store import Store
from sdar_pl.errors import UserError
from sdar_pl.types import Task

HUMAN = {
    "B000000001": [
        {
            "instruction": "i want a blue mug for tea.",
            "instruction_attributes": ["dishwasher safe"],
            "instruction_options": ["dark blue | white"],
            "assignment_id": "A1",
        },
        {"instruction": "no attributes", "instruction_attributes": [], "instruction_options": []},
    ],
    "B999999999": [{"instruction": "x", "instruction_attributes": ["y"], "instruction_options": []}],
}
NOTES = {
    "B000000001": {
        "attributes": ["dishwasher safe"],
        "instruction": "Find me a dishwasher safe mug",
        "instruction_attributes": ["dishwasher safe"],
    }
}


def shop(folder: Path, **arguments: Any) -> WebShop:
    files = write(folder, [record("B000000001", "Acme Tea Mug"), record("B000000002", "Kettle")], NOTES, HUMAN)
    with pytest.warns(UserWarning, match="1 goal for an unknown asin, 1 goal without attributes"):
        return WebShop(**{**files, **arguments})


def test_the_official_schema(tmp_path: Path) -> None:
    environment = shop(tmp_path)
    found = environment.store.product("B000000001")
    assert found.query == "mugs"
    assert found.options == {"color": ["dark blue | white", "red"]}
    assert (found.pricing, found.price, found.rating) == ([12.99], 12.99, "4.5")
    assert found.attributes == ["dishwasher safe"]
    assert environment.store.product("B000000002").attributes == ["DUMMY_ATTR"]
    [task] = environment.tasks("test")
    assert task.kind == "home_decor"
    assert task.text.startswith("i want a blue mug for tea, and price lower than ")
    assert environment.expert_plan(task)[-2:] == ("click[dark blue | white]", "click[buy now]")


def test_synthetic_goals_are_every_choice_of_options(tmp_path: Path) -> None:
    texts = [task.text.split(",")[0] for task in shop(tmp_path, goals="synthetic").tasks("test")]
    assert sorted(texts) == [
        f"Find me a dishwasher safe mug with color: {color}" for color in ("dark blue | white", "red")
    ]


def test_a_store_opens_again_and_the_environment_variable_names_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = shop(tmp_path / "data")
    monkeypatch.setenv("WEBSHOP_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for _ in range(2):  # the second opens what the first has written
        with pytest.warns(UserWarning, match="left out"):
            again = WebShop(products=None)
        assert list(again.tasks("test")) == list(first.tasks("test"))
        assert again.store.search("tea mug", 5) == first.store.search("tea mug", 5) == ("B000000001", "B000000002")
    assert len(list((tmp_path / "cache" / "sdar_pl" / "webshop").iterdir())) == 1


@pytest.mark.parametrize("price", ["", None, "$5 to $9.50", "from 5"])
def test_prices(tmp_path: Path, price: str | None) -> None:
    found = products.product(record("B1", "Mug", pricing=price), [])
    expected = {"$5 to $9.50": [5.0, 9.5]}.get(price or "", [products.DEFAULT_PRICE])
    assert found.pricing == expected
    assert expected[0] <= found.price <= expected[-1]


def test_bad_records_are_left_out_and_counted(tmp_path: Path) -> None:
    records = [
        *(record("B1", "Good mug"), record("B1", "Again"), record("B2", ""), record("", "No asin"), "text", None),
        *(record("B3", "Mug", pricing="$1.2.3"), record("B4", "Odd \x00\x1b[31m mug [SEP] Buy Now \ud800<b>bold</b>")),
        record("B5", "Mug", small_description=None, customization_options="", full_description=None, query=None),
    ]
    files = tmp_path / "products.json"
    files.write_text(json.dumps(records))
    store = opened(files, None, None, tmp_path / "store")
    assert store.skipped == {
        "product whose asin occurs before": 1,
        "product with no asin of at most 10 characters": 1,
        "product with no mapping of fields": 2,
        "product with no name": 1,
        "product with no price": 1,
    }
    assert store.product("B4").name == "Odd  [31m mug   Buy Now  <b>bold</b>"
    assert store.product("B5").bullets == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", r"is no JSON list or object at byte 0"),
        ("hello", r"is no JSON list or object at byte 0: b'hello'"),
        ('[{"asin": "B1"}, {"asin": ', r"is no JSON behind byte 15: '\{\"asin\": '"),
        ('[{"asin": "B1"}', r"ends at byte 15 without its closing bracket"),
        ('[{"asin": "B1"} oops]', r"is no JSON behind byte 15: 'oops\]'"),
        ("[]", r"no good product in "),
    ],
)
def test_bad_files(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "products.json"
    path.write_text(content)
    with pytest.raises(UserError, match=words):
        opened(path, None, None, tmp_path / "store")


def test_bytes_that_are_no_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "products.json"
    path.write_bytes(b'[{"asin": "\xff"}]')
    with pytest.raises(UserError, match="is no UTF-8 behind byte 1 "):
        opened(path, None, None, tmp_path / "store")


def test_missing_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEBSHOP_DATA", raising=False)
    with pytest.raises(UserError, match=r"data.environment.products: is null and \$WEBSHOP_DATA is not set"):
        WebShop(products=None)
    with pytest.raises(UserError, match=r"data.environment.products: .*none.json does not exist"):
        WebShop(products=str(tmp_path / "none.json"))
    with pytest.raises(UserError, match="the split 'train' begins at goal 1500; use files with more goals"):
        shop(tmp_path).tasks("train")


@pytest.mark.parametrize("size", [1, 7, 64, 1 << 20])
def test_elements_in_chunks_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Characters of several bytes and elements across chunks; from every offset on, the rest."""
    monkeypatch.setattr(products, "_CHUNK", size)
    values = [{"é": "›💥", "n": [1, 2]}, 12345, "text ] }", [], {"deep": {"a": None}}]
    path = tmp_path / "values.json"
    path.write_text(json.dumps(values, ensure_ascii=False, indent=2), encoding="utf-8")
    found = list(products.elements(path))
    assert [value for _, _, value in found] == values
    for number, (offset, _, _) in enumerate(found[:-1], 1):
        assert [value for _, _, value in products.elements(path, offset)] == values[number:]
    path.write_text(json.dumps({"ü": 1, "b": {"c": []}}, ensure_ascii=False), encoding="utf-8")
    assert [(key, value) for _, key, value in products.elements(path)] == [("ü", 1), ("b", {"c": []})]


def test_an_interrupted_ingest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdar_pl.environments.webshop.store.BATCH", 10)
    records = [record(f"B{k}", f"Mug number {k}") for k in range(57)]
    path = tmp_path / "products.json"
    path.write_text(json.dumps(records))
    whole = opened(path, None, None, tmp_path / "whole")

    def interrupted(path: Path, offset: int = 0) -> Any:
        for number, element in enumerate(products.elements(path, offset)):
            if number == 35:
                raise KeyboardInterrupt
            yield element

    with monkeypatch.context() as patch:
        patch.setattr("sdar_pl.environments.webshop.ingest.elements", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opened(path, None, None, tmp_path / "store")
    half = Store(tmp_path / "store")
    assert len(half.rows("select 1 from products")) == 30
    assert not half.complete
    half.close()
    again = opened(path, None, None, tmp_path / "store")
    for sql in ("select * from products", "select * from goals", "select * from state"):
        assert again.rows(sql) == whole.rows(sql)
    assert again.search("number 41", 3) == whole.search("number 41", 3)
    assert again.search("number 41", 3)[0] == "B41"


def last_word(name: str) -> list[str]:
    return name.lower().split()[-1:]


def test_a_tagger_tags_each_name_once(tmp_path: Path) -> None:
    """It replaces the heuristic in the reward, and another one needs another store."""
    mugs = [record("B1", "Red Mug"), record("B2", "Blue Mug", query="cups", product_category="A › B › C")]
    notes = {"B1": {"attributes": ["red"], "instruction": "a mug", "instruction_attributes": ["red"]}}
    files = write(tmp_path, mugs, notes)
    shop = WebShop(**files, tagger=last_word, splits="small")
    assert [shop.store.product(asin).nouns for asin in ("B1", "B2")] == [["mug"], ["mug"]]
    visit = shop.session(Task("a", "other", "a mug", shop.store.goals("synthetic")[0]))
    for action in ("search[mug]", "click[b2]", "click[buy now]"):
        visit.step(action)
    assert visit.parts["title_score"] == 1.0  # by the heuristic: half of red, mug
    assert WebShop(**files, tagger=last_word, splits="small").store.product("B1").nouns == ["mug"]
    with pytest.raises(UserError, match=r"data.environment.store: .* was made with tagger: .*last_word; name another"):
        WebShop(**files, splits="small")
