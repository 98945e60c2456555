"""From files to a complete store: streamed, resumable, once for all ranks of a machine."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

from sdar_pl.environments.webshop.products import Tagger, elements
from sdar_pl.environments.webshop.store import Elements, Store, name_of
from sdar_pl.environments.webshop.synthetic import catalogue
from sdar_pl.errors import UserError
from sdar_pl.runtime.long_work import long_work

#: changes with the store's format
_FORMAT = 1


def embedded(number: int, seed: int = 0) -> Store:
    """A store in memory of the first ``number`` products of the synthetic catalogue of ``seed``."""
    store, made = Store(None), list(catalogue(number, seed))
    store.note("notes", [(0, entry.record["asin"], entry.note) for entry in made])
    store.note("human", [])
    store.add((0, "", entry.record) for entry in made)
    store.finish()
    return store


def opened(
    products: Path, attributes: Path | None, human: Path | None, folder: Path | None, tagger: Tagger | None = None
) -> Store:
    """The complete store of these files. The first call reads them, which may take minutes.

    Args:
        products: items_shuffle*.json.
        attributes: items_ins*.json; None where there is none.
        human: items_human_ins.json; None where there is none.
        folder: of the store; None means a folder of ~/.cache/sdar_pl/webshop, by the tagger and the files' paths, sizes
            and times.
        tagger: finds the nouns of the products' names; None where there is none.

    Raises ``UserError`` for a missing or bad file, for files without a good product, and for a store that another
    tagger made.
    """
    files = [path for path in (products, attributes, human) if path is not None]
    for path in files:
        if not path.is_file():
            raise UserError(f"data.environment.products: {path} does not exist; docs/webshop.md names the files")
    folder = folder or _cache() / _fingerprint(files, name_of(tagger))
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        store = Store(folder, tagger)
        if store.complete and (made := store.state("tagger", "")) != name_of(tagger):
            raise UserError(
                f"data.environment.store: {folder} was made with tagger: {made or 'null'}; name another folder"
            )
        if not store.complete:
            store.note("notes", _shown(elements(attributes), attributes) if attributes else [])
            store.note("human", _shown(elements(human), human) if human else [])
            offset = int(store.state("offset"))
            store.add(_shown(elements(products, offset), products))
            if not store.rows("select 1 from products limit 1"):
                raise UserError(f"data.environment.products: no good product in {products}; skipped: {store.skipped}")
            with long_work("indexing the products"):
                store.finish()
        store.open_index()
    return store


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sdar_pl" / "webshop"


def _fingerprint(files: Iterable[Path], tagger: str) -> str:
    facts = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return blake2b(repr((_FORMAT, facts, *([tagger] if tagger else []))).encode(), digest_size=8).hexdigest()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time: the others wait, and then find the store complete."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _shown(elements: Elements, path: Path) -> Elements:
    """The same elements, with their progress."""
    with long_work(f"reading {path.name}", path.stat().st_size) as done:
        for number, element in enumerate(elements):
            if number % 500 == 0:
                done(element[0])
            yield element
