"""Numbers of a result dictionary as the page shows them: each says where in results.json it stands.

A `data` element holds the number as results.json has it (`value`), where (`data-from`, a JSON pointer, RFC 6901) and
how it is rounded (`data-form`), so that whoever doubts a figure can follow it; a test follows them all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from system.page.markup import Child, Markup, element

Place = tuple[str | int, ...]

FORMS: Mapping[str, Callable[[Any], str]] = {
    "percent": lambda value: f"{100 * value:.2f}",
    "share": lambda value: f"{value:.4f}",
    "points": lambda value: f"{100 * value:+.2f}",
    "count": lambda value: f"{value:,}",
    "score": lambda value: f"{value:.4g}",
}


def look(results: Mapping[str, object], place: Place) -> Any:
    """Return what stands at a place; None where nothing does."""
    value: Any = results
    for key in place:
        known = isinstance(value, Mapping) and key in value
        is_item = isinstance(value, Sequence) and isinstance(key, int) and key < len(value)
        if not (known or is_item):
            return None
        value = value[key]
    return value


def figure(results: Mapping[str, object], place: Place, form: str) -> Markup:
    """Return the number at a place, rounded; a dash where there is none."""
    value = look(results, place)
    if value is None:
        return element("span", "–", title="cannot be computed", class_="none")
    text = FORMS[form](value)
    return element("data", text, value=json.dumps(value), data_from=pointer(place), data_form=form)


def interval(results: Mapping[str, object], place: Place, form: str) -> Child:
    """Return the bounds of the interval at a place; nothing where there is none."""
    if look(results, (*place, "lower")) is None:
        return None
    bounds = (figure(results, (*place, bound), form) for bound in ("lower", "upper"))
    low, high = bounds
    return element("span", "[", low, ", ", high, "]", class_="interval")


def with_interval(results: Mapping[str, object], place: Place, intervals: Sequence[Place], form: str) -> Child:
    """Return the number at a place and the first interval that there is."""
    bounds = next((found for name in intervals if (found := interval(results, name, form)) is not None), None)
    return [figure(results, place, form), None if bounds is None else [" ", bounds]]


def pointer(place: Place) -> str:
    """Return a JSON pointer."""
    return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in place)
