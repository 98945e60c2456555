"""WebShop's three files by hand, in the exact official schema, small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CATEGORY = "Home & Kitchen › Kitchen & Dining › Mugs"


def record(asin: str, name: str, **changes: Any) -> dict[str, Any]:
    """One product as items_shuffle*.json has it, with the fields that sdar_pl does not use."""
    return {
        **{"name": name, "pricing": "$12.99", "list_price": "", "availability_quantity": None, "brand": "Acme"},
        **{
            "availability_status": "In Stock.",
            "average_rating": 4.5,
            "total_reviews": 3,
            "total_answered_questions": "",
        },
        **{"full_description": "A mug — for tea.", "small_description": ["holds 300 ml", "dishwasher safe"]},
        **{"images": ["https://example.org/1.jpg"], "seller_id": None, "seller_name": None, "fulfilled_by_amazon": ""},
        "customization_options": {
            "color": [
                {"is_selected": False, "value": " Dark Blue/White ", "image": None},
                {"value": "Red", "image": ""},
            ],
            "size": None,
        },
        **{"asin": asin, "category": "garden", "query": "Mugs ", "page": 1, "small_description_old": ""},
        **{"product_category": CATEGORY, "product_information": {}, **changes},
    }


def write(
    folder: Path, records: list[Any], notes: dict[str, Any] | None = None, human: dict[str, Any] | None = None
) -> dict[str, str]:
    """The files, and the constructor's arguments that name them."""
    contents = {
        "products": ("items_shuffle_1000.json", records),
        "attributes": ("items_ins_v2_1000.json", notes or {}),
        "human_goals": ("items_human_ins.json", human or {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for key, (name, content) in contents.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
        paths[key] = str(folder / name)
    return {**paths, "store": str(folder / "store")}
