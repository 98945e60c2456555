"""Write the synthetic WebShop catalogue, of any size, as files in WebShop's own schema. No real product occurs in it.

The embedded catalogue of ``WebShop(products="synthetic")`` is the first 490 products of the same generator.
Run: python scripts/webshop_catalogue.py --out /tmp/webshop [--products 1000]
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from _common import run_script

from sdar_pl.environments.webshop.synthetic import NUMBER, catalogue
from sdar_pl.runtime.messages import PlainParser


def write(folder: Path, number: int) -> None:
    """items_shuffle.json and items_ins_v2.json, written product by product."""
    folder.mkdir(parents=True, exist_ok=True)
    products = (json.dumps(made.record, ensure_ascii=False) for made in catalogue(number))
    _write(folder / "items_shuffle.json", "[", products, "]")
    notes = (f"{json.dumps(made.record['asin'])}: {json.dumps(made.note)}" for made in catalogue(number))
    _write(folder / "items_ins_v2.json", "{", notes, "}")


def _write(path: Path, first: str, entries: Iterable[str], last: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(first)
        for number, entry in enumerate(entries):
            file.write((",\n" if number else "") + entry)
        file.write(last)


def main() -> None:
    parser = PlainParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--products", type=int, default=NUMBER)
    args = parser.parse_args()
    write(args.out, args.products)
    print(f"{args.products:,} synthetic products in {args.out}")


if __name__ == "__main__":
    run_script(main)
