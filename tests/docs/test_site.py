"""The documentation site: built strictly, read in Chromium without a request to elsewhere, searched, accessible."""

from __future__ import annotations

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT
from helpers.browser import DESK, PHONE, chromium, serious_findings
from helpers.evidence import required
from helpers.pages import pages

pytestmark = pytest.mark.slow
#: what a page loads by itself
LOADED = re.compile(r'<(?:script|img|iframe|link\b[^>]*\brel="(?:stylesheet|preconnect|icon)")[^>]*="(https?:[^"]*)"')
KINDS = ["index.html", "docs/results.html", "docs/metrics.html", "docs/report.html", "configs/index.html"]
KINDS += ["sdar_pl/policy.py.html", "configs/objectives/grpo.yaml.html"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built without a warning."""
    for module in ("mkdocs", "material", "mkdocstrings_handlers"):
        required(module, "it builds the site; pip install 'sdar_pl[docs]'")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "WARNING" not in done.stderr
    return folder


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """``visit(page, …)``: a page of the site. It may log no error and ask nobody else."""
    problems: list[str] = []
    contexts = []

    def open_page(name: str, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": DESK, "bypass_csp": True, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda one: None if one.url.startswith((address, "data:")) else problems.append(one.url))
        page.goto(address + name)
        page.wait_for_load_state("networkidle")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def test_every_page_is_there_and_loads_nothing_from_elsewhere(site: Path) -> None:
    made = {path.relative_to(site).with_suffix("").as_posix() for path in site.rglob("*.html")}
    for page in pages():
        name = page.relative_to(ROOT).with_suffix("").as_posix()
        assert {"README": "index"}.get(name, name) in made or f"{Path(name).parent}/index" in made
    assert {"sdar_pl/api.py", "callbacks/progress.py", "configs/objectives/grpo.yaml"} <= made
    loaded = {path.name: LOADED.findall(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    assert {name: found for name, found in loaded.items() if found} == {}
    assert not [path for path in site.rglob("*.css") if re.search(r"@import|url\(['\"]?http", path.read_text())]


def test_search_and_navigation(visit: Callable[..., Any]) -> None:
    page = visit("index.html")
    tabs = page.locator(".md-tabs__link").all_inner_texts()
    assert [tab.strip() for tab in tabs] == ["Start", "Methods", "Environments", "Extend", "Operate", "Project", "API"]
    page.keyboard.press("/")
    page.keyboard.type("negative_fraction")
    hit = page.locator(".md-search-result__link[href*='docs/metrics.html']").first
    hit.wait_for()
    hit.click()
    page.wait_for_url("**/docs/metrics.html*")
    page.click("text=A run's report")
    page.wait_for_url("**/docs/report.html")
    picture = page.locator("img[src$='report.png']")
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0


@pytest.mark.parametrize(("scheme", "size"), [("light", DESK), ("dark", DESK), ("light", PHONE)])
@pytest.mark.parametrize("name", KINDS)
def test_accessible_and_no_wider_than_the_screen(
    visit: Callable[..., Any], name: str, scheme: str, size: dict[str, int]
) -> None:
    page = visit(name, color_scheme=scheme, viewport=size)
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert serious_findings(page) == []
