"""WebShop's reward: how well a purchase meets a goal (Yao et al. 2022, 2207.01206, section 3).

    score = r_type · (matched attributes + matched options + [price ≤ cap]) / (attributes + options + 1)

Texts match where rapidfuzz's ``token_set_ratio`` exceeds 85. The nouns of two product names decide on ``r_type``. The
reference tags them with a neural tagger; ``title_nouns`` is the heuristic in its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

#: a ``token_set_ratio`` above this is a match
MATCH = 85
#: the price cap of a goal without one
NO_CAP = 1_000_000.0

_words = str.split
# The first colour word that an option contains stands for the option.
_COLOURS = _words(
    "alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy camel "
    "camo caramel champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry "
    "cream crystal dark denim eggplant elephant espresso fuchsia gold granite grape graphite grass gray green "
    "grey heather indigo ivory ivy khaki lavender lemon leopard light lilac lime magenta maroon mauve merlot "
    "midnight mint mocha multicolor mushroom mustard natural navy nude olive orange peach pewter pink plum purple "
    "rainbow red rose royal rust sand sapphire seashell silver skull slate steel stone stonewash sunflower tan "
    "taupe teal tiger turquoise violet walnut wheat white wine yellow"
)

# Words of a title that are no nouns: function words, and adjectives and verbs that titles are full of.
_NO_NOUNS = frozenset(
    _words(
        "a an and are as at be by for from in into is it its no non not of off on or our out over s so that the this "
        "to up us we with without you your all any more most new best great good high low long short large small big "
        "mini free soft natural organic portable adjustable wireless waterproof professional premium perfect "
        "compatible casual classic comfortable lightweight durable easy removable foldable electric rechargeable "
        "reusable breathable healthy delicious gourmet modern vintage african sexy loose comfy half made replaceable "
        "universal multi double single dual full"
    )
)
_WORD = re.compile(r"[^\W_]+(?:\.(?=\s|$))?")


def title_nouns(name: str) -> tuple[str, ...]:
    """The probable nouns of a product's name in lower case: no numbers, function words, adjectives."""
    words = (word for word in _WORD.findall(name.lower()))
    return tuple(word for word in words if not word[0].isdigit() and word.rstrip(".") not in _NO_NOUNS)


def normalised_colour(option: str) -> str:
    """The first colour word in ``option``, or ``option`` itself."""
    return next((colour for colour in _COLOURS if colour in option), option)


def matches(found: str, wanted: str) -> bool:
    """Whether two texts agree after rapidfuzz's default processing (lower case, letters and digits only)."""
    from rapidfuzz import fuzz, utils

    return fuzz.token_set_ratio(found, wanted, processor=utils.default_process) > MATCH


def reward(
    product: Mapping[str, Any],
    goal: Mapping[str, Any],
    price: float,
    options: Mapping[str, str],
    *,
    product_nouns: Sequence[str] | None = None,
    goal_nouns: Sequence[str] | None = None,
) -> tuple[float, dict[str, Any]]:
    """The score of a purchase in [0, 1] and its parts.

    Args:
        product: the bought product: name, query, product_category, Attributes, Title, BulletPoints (a list),
            Description.
        goal: name, query, product_category, attributes (at least one), goal_options (a list, or option → value) and
            price_upper (0: no price term).
        price: of the bought product, in dollars.
        options: the chosen options, name → value.
        product_nouns: nouns of the product's name; None means ``title_nouns``.
        goal_nouns: nouns of the goal's name; None means ``title_nouns``.

    The parts: r_type, query_match, category_match, title_score; r_att, r_option, r_price (shares that match) and their
    weights w_att, w_option, w_price. r_option is missing for a goal without options.
    """
    kind = _type_match(product, goal, product_nouns, goal_nouns)
    attributes = sum(_has_attribute(product, wanted) for wanted in goal["attributes"])
    wanted_options = goal["goal_options"]
    wanted_options = list(wanted_options.values() if isinstance(wanted_options, Mapping) else wanted_options)
    chosen = [normalised_colour(option) for option in options.values()]
    found = sum(any(matches(have, normalised_colour(want)) for have in chosen) for want in wanted_options)
    cheap = price <= goal["price_upper"] if goal["price_upper"] > 0 else None
    total = len(goal["attributes"]) + len(wanted_options) + 1
    score = (attributes + found + bool(cheap)) / total * kind["r_type"]
    parts = {**kind, "r_att": attributes / len(goal["attributes"]), "w_att": len(goal["attributes"]) / total}
    if wanted_options:
        parts |= {"r_option": found / len(wanted_options), "w_option": len(wanted_options) / total}
    if cheap is not None:
        parts |= {"r_price": cheap, "w_price": 1 / total}
    return score, parts


def _type_match(
    product: Mapping[str, Any],
    goal: Mapping[str, Any],
    product_nouns: Sequence[str] | None,
    goal_nouns: Sequence[str] | None,
) -> dict[str, Any]:
    query = product["query"] == goal["query"]
    category = len(_levels(product["product_category"]) & _levels(goal["product_category"])) >= 2
    have = title_nouns(product["name"]) if product_nouns is None else product_nouns
    want = title_nouns(goal["name"]) if goal_nouns is None else goal_nouns
    title = len(set(have) & set(want)) / len(want) if want else 0.2
    factor = 1.0 if query or category or title > 0.2 else 0.5
    if title < 0.1:
        factor = 0.1 if title > 0 else 0.0
    return {"r_type": factor, "query_match": query, "category_match": category, "title_score": title}


def _levels(category: str) -> set[str]:
    return {level.strip() for level in category.split("›")}


def _has_attribute(product: Mapping[str, Any], wanted: str) -> bool:
    if any(matches(attribute, wanted) for attribute in product["Attributes"]):
        return True
    texts: Iterable[str] = (product["Title"], " ".join(product["BulletPoints"]), product["Description"])
    return any(wanted in text.lower() for text in texts)
