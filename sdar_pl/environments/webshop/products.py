"""Records of WebShop's files: read one by one, checked and cleaned.

Left out: images, sellers and the other fields that neither a page nor the reward uses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from sdar_pl.errors import UserError

#: price of a product without one, in dollars
DEFAULT_PRICE = 100.0
#: bytes read at a time, and the largest element of a file
_CHUNK, _LARGEST = 1 << 22, 1 << 26
_DECODER = json.JSONDecoder()
_SPACE = " \t\r\n"
# Control characters, lone surrogates, and the separator of a page's parts.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]+|\\[SEP\\]")


#: the name of a product → its nouns
Tagger = Callable[[str], Sequence[str]]


class BadRecordError(Exception):
    """A record that is no product. The message is the reason, in a few words, and the same for every such record."""


@dataclass(frozen=True)
class Product:
    """One product as pages and reward use it.

    Example:
        ``Product("B0001", "Red Mug", "mugs", "garden", "Home › Kitchen › Mugs", "A mug.", ["holds 300 ml"], ["red"],
        {"size": ["small", "large"]}, [9.5])``
    """

    asin: str
    name: str
    query: str
    category: str
    product_category: str
    description: str
    bullets: list[str]
    attributes: list[str]
    options: dict[str, list[str]]
    pricing: list[float]
    rating: str = "N.A."
    nouns: list[str] | None = None  # of the name, where a tagger was there at the ingest

    @property
    def price(self) -> float:
        """In dollars. Of a price range, a value that the asin draws, the same for everybody."""
        return Random(self.asin).uniform(*self.pricing) if len(self.pricing) > 1 else self.pricing[0]

    @property
    def price_tag(self) -> str:
        return " to ".join(f"${price}" for price in self.pricing)

    @property
    def text(self) -> str:
        """What the search engine indexes."""
        options = " ".join(f"{name} {' '.join(values)}" for name, values in self.options.items())
        return " ".join([self.name, self.description, *self.bullets[:1], options])

    def for_reward(self) -> dict[str, Any]:
        """The argument ``product`` of ``rewards.reward``."""
        return {
            **{"name": self.name, "query": self.query, "product_category": self.product_category},
            **{"Attributes": self.attributes, "Title": self.name, "BulletPoints": self.bullets},
            "Description": self.description,
        }

    def dump(self) -> str:
        return json.dumps(vars(self), ensure_ascii=False)

    @classmethod
    def load(cls, text: str) -> Product:
        return cls(**json.loads(text))


def product(record: Any, attributes: list[str], tagger: Tagger | None = None) -> Product:
    """The product of a record of items_shuffle*.json. Raises ``BadRecordError``."""
    if not isinstance(record, Mapping):
        raise BadRecordError("no mapping of fields")
    asin, name = clean(record.get("asin")), clean(record.get("name"))
    if not asin or asin == "nan" or len(asin) > 10:
        raise BadRecordError("no asin of at most 10 characters")
    if not name or name == "nan":
        raise BadRecordError("no name")
    small = record.get("small_description") or []
    return Product(
        asin,
        name,
        clean(record.get("query")).lower(),
        clean(record.get("category")),
        clean(record.get("product_category")),
        clean(record.get("full_description")),
        [clean(line) for line in (small if isinstance(small, list) else [small])],
        attributes,
        _options(record.get("customization_options")),
        _pricing(record.get("pricing")),
        clean(record.get("average_rating")) or "N.A.",
        None if tagger is None else list(tagger(name)),
    )


def clean(value: object) -> str:
    """A field as one line of printable text; empty for None."""
    return "" if value is None else _UNPRINTABLE.sub(" ", str(value)).strip()


def _pricing(value: object) -> list[float]:
    parts = [re.sub(r"[^\d.]", "", part) for part in clean(value).split("$")[1:]]
    try:
        return [float(part) for part in parts[:2]] or [DEFAULT_PRICE]
    except ValueError:
        raise BadRecordError("no price") from None


def _options(value: object) -> dict[str, list[str]]:
    found = {}
    for name, contents in value.items() if isinstance(value, Mapping) else ():
        values = [clean(entry.get("value")) for entry in contents or () if isinstance(entry, Mapping)]
        values = [text.replace("/", " | ").lower() for text in values if text]
        if values:
            found[clean(name).lower()] = list(dict.fromkeys(values))
    return found


def elements(path: Path, offset: int = 0) -> Iterator[tuple[int, str, Any]]:
    """The elements of a JSON list or object, one by one: (byte offset behind it, its key or "", the element).

    Args:
        path: the file. It is never in memory as a whole.
        offset: where to go on; 0, or an offset that this function has yielded.

    Raises ``UserError`` with the byte offset for a file that is no such JSON.
    """
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16)
            opening = head.lstrip()[:1]
            if opening not in (b"[", b"{"):
                raise UserError(f"{path}: is no JSON list or object at byte 0: {head[:40]!r}; get the file again")
            offset = offset or head.index(opening) + 1
            file.seek(offset)
            text, tail = "", b""  # what is decoded but not read, and the beginning of a character
            while True:
                chunk = file.read(_CHUNK)
                tail += chunk
                cut = _whole(tail) if chunk else len(tail)
                text, tail = text + tail[:cut].decode(), tail[cut:]
                done = 0
                for end, key, value in _decoded(text, keyed=opening == b"{", final=not chunk):
                    offset += len(text[done:end].encode())
                    done = end
                    yield offset, key, value
                text = text[done:]
                rest = text.lstrip(_SPACE + ",")
                if not chunk or rest[:1] in ("]", "}") or len(text) > _LARGEST:
                    break
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); docs/webshop.md names the files") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no UTF-8 behind byte {offset} ({error.reason}); get the file again") from None
    if not rest:
        raise UserError(f"{path}: ends at byte {offset} without its closing bracket; get the file again")
    if rest[0] not in "]}":
        raise UserError(f"{path}: is no JSON behind byte {offset}: {rest[:40]!r}; get the file again")


def _whole(buffer: bytes) -> int:
    """Length of ``buffer`` without the beginning of a character at its end."""
    for back in range(1, min(4, len(buffer)) + 1):
        byte = buffer[-back]
        if byte & 0xC0 == 0xC0:  # the first byte of a character
            length = 2 + (byte >= 0xE0) + (byte >= 0xF0)
            return len(buffer) - back if length > back else len(buffer)
        if byte < 0x80:
            break
    return len(buffer)


def _decoded(text: str, keyed: bool, final: bool) -> Iterator[tuple[int, str, Any]]:
    """The whole elements at the beginning of ``text``: (position behind it, key, element)."""
    position = 0
    while True:
        while position < len(text) and text[position] in _SPACE + ",":
            position += 1
        try:
            key = ""
            if keyed:
                key, position = _DECODER.raw_decode(text, position)
                position = text.index(":", position) + 1
                while text[position] in _SPACE:
                    position += 1
            value, position = _DECODER.raw_decode(text, position)
        except (ValueError, IndexError, RecursionError):
            return  # the rest of the element is in the next chunk, or it is bad
        if position >= len(text) and not final:
            return  # a number may go on
        yield position, key, value
