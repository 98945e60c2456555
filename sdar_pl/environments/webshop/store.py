"""The store: products, goals and the search index on disk, read once from WebShop's files and then opened in seconds.

An ingest that is interrupted goes on where it stopped. All ranks and sessions share one store. Left out: writing to a
store that is complete; other files make another store.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from sdar_pl.environments.webshop.index import Index
from sdar_pl.environments.webshop.products import BadRecordError, Product, Tagger, clean, product

#: records between two commits
BATCH = 2000
_TABLES = """
create table if not exists notes (asin text primary key, body text);
create table if not exists human (asin text primary key, body text);
create table if not exists products (id integer primary key, asin text unique, body text);
create table if not exists goals (id integer primary key, source text, asin text, body text);
create index if not exists goals_by_source on goals (source, id);
create table if not exists state (key text primary key, value);
"""
Elements = Iterable[tuple[int, str, Any]]


class Store:
    """Products by asin, goals by number, and ``search``. Thread-safe.

    Args:
        folder: of store.sqlite and index/; None: all in memory.
        tagger: finds the nouns of products that are added; None: reward uses its heuristic.
    """

    def __init__(self, folder: Path | None, tagger: Tagger | None = None) -> None:
        self.folder, self.tagger = folder, tagger
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        path = ":memory:" if folder is None else str(folder / "store.sqlite")
        self._connection = sqlite3.connect(path, check_same_thread=False, timeout=60)
        self._lock = threading.RLock()
        self._connection.executescript(_TABLES)
        self._index: Index | None = None
        self._searched = lru_cache(maxsize=4096)(self._search)
        self.product = lru_cache(maxsize=4096)(self._product)

    def rows(self, sql: str, *arguments: object) -> list[Any]:
        with self._lock:
            return self._connection.execute(sql, arguments).fetchall()

    def state(self, key: str, default: Any = 0) -> Any:
        """A figure of the ingest: "offset", "complete", "skipped: <reason>" …"""
        found = self.rows("select value from state where key = ?", key)
        return found[0][0] if found else default

    @property
    def complete(self) -> bool:
        return bool(self.state("complete"))

    @property
    def skipped(self) -> dict[str, int]:
        """Reason → number of records and goals that were left out."""
        found = self.rows("select key, value from state where key like 'skipped: %' order by key")
        return {key.removeprefix("skipped: "): value for key, value in found}

    def number_of_goals(self, source: str) -> int:
        return int(self.rows("select count(*) from goals where source = ?", source)[0][0])

    def goals(self, source: str) -> list[int]:
        """Numbers of the goals of a source ("human" or "synthetic"), in the order of the files."""
        return [row[0] for row in self.rows("select id from goals where source = ? order by id", source)]

    def goal(self, number: int) -> dict[str, Any]:
        """asin, instruction, attributes and options of a goal."""
        asin, body = self.rows("select asin, body from goals where id = ?", number)[0]
        return {"asin": asin, **json.loads(body)}

    def search(self, query: str, number: int) -> tuple[str, ...]:
        """Asins of the best products for a query, at most ``number``."""
        return self._searched(query, number)

    def _search(self, query: str, number: int) -> tuple[str, ...]:
        assert self._index is not None
        found = self._index.search(query, number)
        marks = ",".join("?" * len(found))
        asins = dict(self.rows(f"select id, asin from products where id in ({marks})", *found))
        return tuple(asins[k] for k in found)

    def _product(self, asin: str) -> Product:
        """Raises ``KeyError`` for an unknown asin."""
        found = self.rows("select body from products where asin = ?", asin)
        if not found:
            raise KeyError(asin)
        return Product.load(found[0][0])

    # --- ingest ------------------------------------------------------------------------------------------------------

    def note(self, table: str, elements: Elements) -> None:
        """Keep the elements of an attributes file ("notes") or of human goals ("human") by asin."""
        if self.state(table):
            return
        rows = ((key, json.dumps(value)) for _, key, value in elements)
        with self._lock, self._connection as connection:
            connection.execute(f"delete from {table}")
            connection.executemany(f"insert or replace into {table} values (?, ?)", rows)
            self._set(table, 1)

    def add(self, elements: Elements) -> None:
        """Add products with their goals. Elements come from the offset that ``state("offset")`` names."""
        batch: list[tuple[int, Any]] = []
        for behind, _, record in elements:
            batch.append((behind, record))
            if len(batch) >= BATCH:
                self._add(batch)
                batch = []
        self._add(batch)

    def finish(self) -> None:
        """Build the index and mark the store complete."""
        with self._lock:
            self._index = Index.build(Product.load(row[0]).text for row in self._bodies())
            if self.folder is not None:
                self._index.save(self.folder / "index")
            with self._connection as connection:
                unknown = "select count(*) from human where asin not in (select asin from products)"
                self._count("goal for an unknown asin", connection.execute(unknown).fetchone()[0])
                connection.execute("delete from notes")
                connection.execute("delete from human")
                self._set("tagger", name_of(self.tagger))
                self._set("complete", 1)

    def open_index(self) -> None:
        if self._index is None and self.folder is not None:
            self._index = Index.load(self.folder / "index")

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._connection.close()

    def _bodies(self) -> Iterable[Any]:
        return self._connection.execute("select body from products order by id")

    def _set(self, key: str, value: object) -> None:
        self._connection.execute("insert or replace into state values (?, ?)", (key, value))

    def _count(self, reason: str, number: int = 1) -> None:
        if number:
            self._set(f"skipped: {reason}", self.state(f"skipped: {reason}") + number)

    def _add(self, batch: list[tuple[int, Any]]) -> None:
        if not batch:
            return
        with self._lock, self._connection as connection:
            number = connection.execute("select coalesce(max(id) + 1, 0) from products").fetchone()[0]
            for _, record in batch:
                asin = clean(record.get("asin")) if isinstance(record, dict) else ""
                note = self._noted("notes", asin)
                note = note if isinstance(note, dict) else {}
                try:
                    found = product(
                        record, [clean(text) for text in note.get("attributes") or ["DUMMY_ATTR"]], self.tagger
                    )
                except BadRecordError as error:
                    self._count(f"product with {error}")
                    continue
                row = (number, found.asin, found.dump())
                if not connection.execute("insert or ignore into products values (?, ?, ?)", row).rowcount:
                    self._count("product whose asin occurs before")
                    continue
                number += 1
                self._goals(connection, found, note)
            self._set("offset", batch[-1][0])

    def _noted(self, table: str, asin: str) -> Any:
        found = self._connection.execute(f"select body from {table} where asin = ?", (asin,)).fetchone()
        return json.loads(found[0]) if found else None

    def _goals(self, connection: sqlite3.Connection, found: Product, note: dict[str, Any]) -> None:
        from sdar_pl.environments.webshop.goals import human_goals, synthetic_goals

        written = self._noted("human", found.asin)
        sources = {"human": human_goals(written), "synthetic": synthetic_goals(found, note)}
        goals = [(source, goal) for source, some in sources.items() for goal in some]
        good = [
            (source, found.asin, json.dumps(goal, ensure_ascii=False)) for source, goal in goals if goal["attributes"]
        ]
        self._count("goal without attributes", len(goals) - len(good))
        connection.executemany("insert into goals (source, asin, body) values (?, ?, ?)", good)


def name_of(tagger: Tagger | None) -> str:
    """The import path of a tagger; empty for None."""
    return "" if tagger is None else f"{tagger.__module__}.{getattr(tagger, '__qualname__', type(tagger).__qualname__)}"
