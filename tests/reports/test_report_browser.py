"""The report in Chromium: clicks and keys, links, speed with 2,000 episodes, accessibility, hostile texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.browser import DESK, PHONE, chromium, serious_findings
from helpers.report_runs import HOSTILE, episode, write_run

from sdar_pl.reports.page import write_page
from sdar_pl.reports.run_files import read_run

pytestmark = pytest.mark.slow
TOKEN = '.token[data-turn="{}"][data-token="{}"]'


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """``visit(folders, address, …)``: the report of runs in a page of its own. It may log no error and load nothing."""
    problems: list[str] = []
    contexts = []

    def open_page(folders: list[Path], address: str = "", **options: Any) -> Any:
        path = tmp_path / "report.html"
        if not path.exists():
            write_page([read_run(folder, 2000) for folder in folders], path, lambda ids: f" t{ids[0]}", "run")
        context = browser.new_context(**{"viewport": DESK, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.append(request.url) if request.url[:4] == "http" else None)
        page.goto(f"file://{path}{address}")
        page.wait_for_selector("#notice", state="hidden")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def fact(page: Any, name: str) -> str:
    """What the box of the selected token has for a name."""
    names, values = (page.locator(f".inspector {tag}").all_inner_texts() for tag in ("dt", "dd"))
    return str(dict(zip(names, values, strict=True))[name])


def test_the_overview_draws_every_part(visit: Callable[..., Any], tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name / f"seed-{seed}", seed, name.upper()) for name in ("a", "b") for seed in (0, 1)]
    page = visit(runs)
    assert page.locator("main:visible h2").all_inner_texts() == [
        *("Runs", "Success", "Success by kind of task", "Gap and gate", "Time and memory", "Settings that differ"),
        "Folders",
    ]
    columns, kinds, distributions, time = 3, 2, 4, 1
    assert page.locator("figure").count() == columns + kinds + distributions + time
    assert page.locator("figure svg:empty").count() == 0
    figure = page.locator("figure", has_text="Success on the panel")
    figure.locator("svg").hover(position={"x": 400, "y": 60})
    assert "a 75.0 % [" in figure.locator(".readout").inner_text()
    figure.locator("summary").click()
    figure.locator("tbody tr").first.wait_for()  # the table is made when it is opened
    assert figure.locator("tbody tr").count() == 2


def test_clicks_and_keys_lead_through_tokens(visit: Callable[..., Any], tmp_path: Path) -> None:
    page = visit([write_run(tmp_path / "run")])
    page.click("#to-episodes")
    page.select_option("select[name=split]", label="train")
    assert page.locator("[role=status]:visible").inner_text() == "8 of 24 episodes"
    page.hover(TOKEN.format(0, 1))
    names = ("token", "log π student", "log π teacher", "gap Δ", "gate g", "advantage")
    facts = [fact(page, name) for name in names]
    assert facts == ['" t301"', "−1.500", "−2.750", "−1.250", "0.002", "−0.500"]
    page.click(TOKEN.format(0, 1))
    # The driver hears of a new address a little later than the click or key that led there returns.
    page.wait_for_url("**/report.html#0/train/1/0/0/0/1")
    for key, address in [
        ("ArrowRight", "0/2"),
        ("ArrowRight", "1/0"),
        ("ArrowUp", "0/0"),
        ("ArrowDown", "1/0"),
        ("End", "1/2"),
        ("Home", "1/0"),
        ("ArrowLeft", "0/2"),
    ]:
        page.keyboard.press(key)
        page.wait_for_url(f"**/report.html#0/train/1/0/0/{address}")
    page.keyboard.press("j")
    page.wait_for_url("**/report.html#0/train/1/1/0")
    page.keyboard.press("k")
    page.wait_for_url("**/report.html#0/train/1/0/0")
    assert page.locator(".context").inner_text() == "Open the fridge first."


def test_colours_follow_gap_gate_and_log_prob(visit: Callable[..., Any], tmp_path: Path) -> None:
    page = visit([write_run(tmp_path / "run")], "#0/train/1/0/0")

    def levels() -> list[str]:
        return [str(page.get_attribute(TOKEN.format(0, n), "class")).removeprefix("token ") for n in range(3)]

    assert levels() == ["", "dn5", "up4"]
    page.select_option("select[name=colour]", label="gate g")
    assert levels() == ["", "dn5", "up5"]
    page.select_option("select[name=colour]", label="log-prob of the student")
    assert levels() == ["", "dn4", "dn2"]


def test_a_link_opens_its_token_whatever_the_filters(visit: Callable[..., Any], tmp_path: Path) -> None:
    page = visit([write_run(tmp_path / "run")], "#0/train/2/3/0/1/2")
    assert page.get_attribute(TOKEN.format(1, 2), "aria-pressed") == "true"
    assert page.locator(".detail h2").inner_text() == "find mug 3"
    page.select_option("select[name=split]", label="validation")
    page.select_option("select[name=success]", label="no success")
    page.evaluate("location.hash = '#0/train/1/0/0/0/1'")
    page.wait_for_selector('.token[data-token="1"][aria-pressed="true"]')
    assert page.locator(".detail h2").inner_text() == "find mug 0"
    assert page.locator("[role=status]:visible").inner_text() == "24 of 24 episodes"


def test_filters_and_order(visit: Callable[..., Any], tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    strange = episode(2, "train", 3, False)
    strange["turns"][1]["gap"][0] = -9.5
    with (folder / "episodes.jsonl").open("a") as file:
        file.write(json.dumps({**strange, "text": "the strange one", "group": 77}) + "\n")
    page = visit([folder], "#episodes")
    for name, label, count in [("kind", "heat", 13), ("success", "no success", 9), ("iteration", "2", 4)]:
        page.select_option(f"select[name={name}]", label=label)
        assert page.locator("[role=status]:visible").inner_text() == f"{count} of 25 episodes"
    page.select_option("select[name=order]", label="highest |Δ|")
    assert page.locator(".detail h2").inner_text() == "the strange one"
    page.select_option("select[name=split]", label="validation")
    page.select_option("select[name=success]", label="success")
    page.select_option("select[name=iteration]", label="1")
    assert page.locator(".detail").inner_text() == "No episode passes the filters."


def test_hostile_texts_are_inert(visit: Callable[..., Any], tmp_path: Path) -> None:
    page = visit([write_run(tmp_path / "run", text=HOSTILE)], "#0/train/1/0/0/0/0")
    assert page.evaluate("window.owned") is None
    said = page.locator(".said").nth(1).text_content()
    assert "</script><script>window.owned = 1</script><img src=x" in said
    assert "<|im_end|>\\u202egnitirw\\u202c \\x1b[2J\\x00" in said
    assert page.locator("#episodes img, #episodes script").count() == 0
    page.click("#to-overview")
    assert page.locator("#overview img, #overview script").count() == 0
    assert not set("\u202e\x1b\0") & set(page.content())
    assert page.evaluate("window.owned") is None


def test_two_thousand_episodes_stay_smooth(visit: Callable[..., Any], tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", train=1)
    rows = [episode(1 + n // 100, "train", n, n % 3 == 0, turns=12) for n in range(1980)]
    with (folder / "episodes.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    page = visit([folder], "#episodes")
    assert "of 1,998 episodes" in page.locator("[role=status]:visible").inner_text()
    assert page.locator(".row").count() < 40, "only rows in sight are drawn"
    most_rows = """async () => {
      const list = document.querySelector('.list');
      let most = 0;
      for (let n = 0; n < 60; n += 1) {
        list.scrollTop = (list.scrollHeight * n) / 60;
        await new Promise(requestAnimationFrame);
        most = Math.max(most, document.querySelectorAll('.row').length);
      }
      return most;
    }"""
    assert page.evaluate(most_rows) < 40, "nor while scrolling"
    page.focus(".list")
    page.keyboard.press("End")
    assert page.locator('.row[aria-selected="true"]').count() == 1
    assert page.get_attribute(".list", "aria-activedescendant") == "row-1997"


@pytest.mark.parametrize("view", ["#overview", "#0/train/1/0/0/0/1"])
@pytest.mark.parametrize(("scheme", "size"), [("light", DESK), ("dark", DESK), ("light", PHONE)])
def test_accessible_and_no_wider_than_the_screen(
    visit: Callable[..., Any], tmp_path: Path, view: str, scheme: str, size: dict[str, int]
) -> None:
    page = visit([write_run(tmp_path / "run")], view, color_scheme=scheme, viewport=size, bypass_csp=True)
    assert serious_findings(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
