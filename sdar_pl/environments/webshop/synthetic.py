"""A synthetic catalogue in the schema of WebShop's files: no real product, brand or price occurs in it.

Each product has a noun of its kind, two attributes and options. Many products share noun and brand and differ in
attributes, options or price, so that a search has to name what the goal asks for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

#: number of products of the embedded catalogue
NUMBER = 490


@dataclass(frozen=True)
class _Kind:
    """What the products of a kind are made of. ``options``: name → values."""

    category: str
    path: str
    nouns: tuple[str, ...]
    attributes: tuple[str, ...]
    options: dict[str, tuple[str, ...]]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


_COLOURS = _words("black, white, red, blue, green, grey, pink, purple")
_KINDS = (
    _Kind(
        *("fashion", "Clothing, Shoes & Jewelry › Clothing"),
        _words("shirt, jacket, sweater, dress, hoodie, skirt, coat, vest, blouse, shorts"),
        _words("machine wash, long sleeve, slim fit, quick drying, polyester cotton, button closure, tummy control"),
        {"color": _COLOURS, "size": _words("small, medium, large, x-large")},
    ),
    _Kind(
        *("fashion", "Clothing, Shoes & Jewelry › Shoes"),
        _words("sneakers, boots, sandals, slippers, loafers, clogs, heels, flats, moccasins, trainers"),
        _words("rubber sole, arch support, memory foam, steel toe, ankle strap, open toe, slip resistant"),
        {"color": _COLOURS, "size": _words("6, 7, 8, 9, 10, 11")},
    ),
    _Kind(
        *("fashion", "Clothing, Shoes & Jewelry › Accessories"),
        _words("watch, belt, scarf, wallet, backpack, hat, gloves, necklace, bracelet, umbrella"),
        _words("stainless steel, water resistant, genuine leather, hand wash, light weight, gift wrapped, wide brim"),
        {"color": _COLOURS},
    ),
    _Kind(
        *("beauty", "Beauty & Personal Care › Skin & Hair Care"),
        _words("shampoo, lotion, serum, lipstick, toothpaste, deodorant, mascara, sunscreen, conditioner, soap"),
        _words("cruelty free, paraben free, long lasting, sensitive skin, tea tree, coconut oil, fragrance free"),
        {"size": _words("2 ounce, 4 ounce, 8 ounce, 16 ounce"), "scent": _words("rose, mint, vanilla, citrus")},
    ),
    _Kind(
        *("electronics", "Electronics › Accessories & Supplies"),
        _words("headphones, charger, speaker, keyboard, camera, tripod, projector, monitor, router, microphone"),
        _words("fast charging, noise cancelling, high definition, plug play, usb port, heavy duty, carrying case"),
        {"color": _COLOURS, "style": _words("basic, standard, deluxe")},
    ),
    _Kind(
        *("garden", "Home & Kitchen › Furniture & Decor"),
        _words("lamp, rug, chair, curtain, pillow, shelf, mirror, vase, table, blanket"),
        _words("easy clean, solid wood, living room, eco friendly, space saving, fade resistant, mid century"),
        {"color": _COLOURS, "size": _words("small, medium, large")},
    ),
    _Kind(
        *("grocery", "Grocery & Gourmet Food › Snacks & Beverages"),
        _words("cookies, crackers, coffee, tea, popcorn, granola, chips, jam, pasta, soup"),
        _words("gluten free, sugar free, low sodium, dairy free, non gmo, high fiber, artificial flavors"),
        {"flavor": _words("original, spicy, honey, lemon, chocolate"), "pack": _words("1 pack, 3 pack, 6 pack")},
    ),
)
_FIRST, _LAST = _words("Ve, Lo, Ka, Mi, Ru, Ta, Zo, Ne, Pa, Si"), _words("lora, mira, dano, tevo, rinn, sku, quil, bex")
_DIGITS = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZ"


@dataclass(frozen=True)
class Made:
    """A product's entries in the products' and in the attributes' file."""

    record: dict[str, Any]
    note: dict[str, Any]


def made(number: int, seed: int = 0) -> Made:
    """Product ``number`` of the catalogue of ``seed``; it depends on nothing else."""
    rng = Random(f"{seed}/{number}")
    kind = _KINDS[number % len(_KINDS)]
    noun = kind.nouns[number // len(_KINDS) % len(kind.nouns)]
    attributes = rng.sample(kind.attributes, 2)
    brand = rng.choice(_FIRST) + rng.choice(_LAST)
    options = {name: rng.sample(values, min(3, len(values))) for name, values in kind.options.items()}
    low = rng.choice(range(5, 120)) + rng.choice((0.0, 0.5, 0.99))
    asin = _asin(number)
    record = {
        "asin": asin,
        "name": f"{brand} {' '.join(attributes)} {noun}".title(),
        "full_description": f"A {noun} by {brand}: {' and '.join(attributes)}.",
        "small_description": [f"{attribute} {noun}" for attribute in attributes],
        "pricing": f"${low:.2f}" if number % 10 else f"${low:.2f} to ${low + 8:.2f}",
        "product_category": f"{kind.path} › {noun.title()}",
        "category": kind.category,
        "query": noun,
        "average_rating": f"{3 + rng.randrange(20) / 10:.1f}",
        "customization_options": {
            name: [{"value": value, "image": None} for value in values] for name, values in options.items()
        },
    }
    note = {
        "attributes": attributes,
        "instruction": f"i want a {attributes[0]} {attributes[1]} {noun}",
        "instruction_attributes": attributes,
    }
    return Made(record, note)


def catalogue(number: int = NUMBER, seed: int = 0) -> Iterator[Made]:
    """The first ``number`` products."""
    return (made(k, seed) for k in range(number))


def _asin(number: int) -> str:
    """ "B", then the number scrambled over four or more digits, so that neighbours do not look alike."""
    width = 4
    while len(_DIGITS) ** width <= number:
        width += 1
    left, text = number * 7919 % len(_DIGITS) ** width, ""  # 7919 is prime and no divisor of 34: one to one
    for _ in range(width):
        left, digit = divmod(left, len(_DIGITS))
        text = _DIGITS[digit] + text
    return "B" + text
