"""Pages of the documentation site (a hook of mkdocs.yml): the Markdown files of the repository where they stand, and a
page for every module and for every other file that a page links to.

The files are copied to build/site_pages, so that links between them hold as on a code host. A link to a module of the
package leads to its API reference, a link to another file (a YAML, a test) to a page with its text.

Run: mkdocs build --strict  (make site)
"""

from __future__ import annotations

import posixpath
import re
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STAGED = ROOT / "build" / "site_pages"
#: files and folders with pages, pictures and figures
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs", "configs/README.md", "benchmarks")
#: what is copied of these folders
KINDS = (".md", ".svg", ".png", ".csv", ".css", ".js")
LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
#: front matter of what search shows below the written pages
BELOW_PAGES = "---\nsearch: {boost: 0.3}\n---\n\n"
LANGUAGES = {".py": "python", ".yaml": "yaml"}


def on_config(config: Any) -> Any:
    """Stage the pages, and add the API reference to the navigation."""
    shutil.rmtree(STAGED, ignore_errors=True)
    for name in PAGES:
        place = ROOT / name
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.suffix == ".md":
                write(path.relative_to(ROOT).as_posix(), linked(path))
            elif path.suffix in KINDS:
                copy = STAGED / path.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
    for path in modules():
        write(page_of(path), f"{BELOW_PAGES}# {dotted(path)}\n\n::: {dotted(path)}\n")
    config.docs_dir = str(STAGED)
    config.nav.append({"API": reference()})
    return config


def on_post_page(output: str, **_: Any) -> str:
    """Name the theme's search dialog for screen readers."""
    return output.replace('role="dialog"', 'role="dialog" aria-label="Search"')


def write(name: str, text: str) -> None:
    path = STAGED / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def linked(page: Path) -> str:
    """A page's text. Links to files that are no pages lead to pages of these files, which are written."""

    def moved(found: re.Match[str]) -> str:
        target = (page.parent / found[2]).resolve()
        if target.is_dir() and (target / "__init__.py").exists():
            target = target / "__init__.py"
        inside = target.relative_to(ROOT) if target.is_relative_to(ROOT) else None
        if inside is None or not target.is_file() or target.suffix in KINDS:
            return found[0]
        if target not in modules():
            language = LANGUAGES.get(target.suffix, "text")
            text = target.read_text(encoding="utf-8")
            write(page_of(target), f"{BELOW_PAGES}# {inside.as_posix()}\n\n````{language}\n{text.rstrip()}\n````\n")
        start = page.parent.relative_to(ROOT).as_posix()
        return found[1] + posixpath.relpath(page_of(target), start) + found[3]

    return LINK.sub(moved, page.read_text(encoding="utf-8"))


def modules() -> list[Path]:
    """The package's source files. ``sdar_pl/callbacks`` is a link to ``callbacks``."""
    return sorted(path for folder in ("sdar_pl", "callbacks") for path in (ROOT / folder).rglob("*.py"))


def dotted(path: Path) -> str:
    """The module of a source file: ``sdar_pl.callbacks.progress``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("sdar_pl",) * (parts[0] == "callbacks") + parts).removesuffix(".__init__")


def page_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() + ".md"


def reference() -> list[Any]:
    """The API's part of the navigation: ``sdar_pl.api`` first, then each part of the package."""
    parts: dict[str, list[Any]] = {}
    for path in modules():
        name = dotted(path)
        part = ".".join(name.split(".")[:2])
        if "__main__" not in name:
            parts.setdefault(part, []).append({name.removeprefix("sdar_pl.") or name: page_of(path)})
    first = ["sdar_pl.api", "sdar_pl"]
    order = [*first, *sorted(parts.keys() - {*first})]
    return [parts[part][0] if len(parts[part]) == 1 else {part.split(".")[1]: parts[part]} for part in order]
