"""Headless Chromium of this machine, and axe-core's findings on a page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers.evidence import required

NAMES = ("chromium", "chromium-browser", "google-chrome")
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser, driven by playwright. Skips the calling test where either is missing; fails it in CI."""
    for module in ("playwright", "axe_playwright_python"):
        required(module, "it drives the browser; pip install 'sdar_pl[browser]'")
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    required(Path(found or "chromium"), "pages are tested in a browser; install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])  # in containers, too
        yield started
        started.close()


def serious_findings(page: Any) -> list[str]:
    """What axe-core finds on a page that is serious or critical. The page's context must have ``bypass_csp``."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {node['html']}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]
