"""Figures of parts of a set's pairs: by visible share, by occluder, by group of people; where results.json has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.report.page.answer import entries, method_name, place_of
from evaluation.report.page.charts import Frame, legend, linear_axis
from evaluation.report.page.curves import joined_figures, method_class
from evaluation.report.page.figures import Place, figure, with_interval
from evaluation.report.page.markup import Child, Markup, element, table
from evaluation.report.results import Results

PARTS = {
    "by_visible_share": "Accuracy against the visible share",
    "by_occluder": "By occluder",
    "by_group": "By group",
}
_COUNTS = ("num_genuine", "num_impostor")
_INTERVALS = ("interval", "accuracy_interval")


def by_parts(results: Results, name: str) -> list[Child]:
    """Return a section for each division of a set's pairs that was measured."""
    return [
        [element("h3", title), _chart(results, name) if key == "by_visible_share" else None, _table(results, name, key)]
        for key, title in PARTS.items()
        if any(other == name and entry.get(key) for other, _, _, entry in entries(results))
    ]


def _table(results: Results, name: str, key: str) -> Markup:
    rows = []
    for other, condition, method, entry in entries(results):
        if other != name:
            continue
        for at, label, part in items(entry.get(key)):
            place: Place = (*place_of(name, condition, method), key, at)
            told = [with_interval(results, (*place, "accuracy"), [(*place, i) for i in _INTERVALS], "percent")]
            counts = [figure(results, (*place, count), "count") if count in part else "–" for count in _COUNTS]
            rows.append([f"{label}", method_name(method), condition, *told, *counts])
    head = ["part", "score", "condition", "accuracy", "genuine", "impostor"]
    return table(head, rows, f"{PARTS[key]}; accuracy in percent with 95 % intervals.")


def _chart(results: Results, name: str) -> Markup:
    frame = Frame(linear_axis("visible share of the face", 0, 1), linear_axis("accuracy", 0, 1))
    drawn: list[Child] = []
    names = []
    for other, condition, method, entry in entries(results):
        found = [part for _, _, part in items(entry.get("by_visible_share")) if part.get("accuracy") is not None]
        if other != name or not found:
            continue
        style = method_class(condition, method)
        names.append((style, f"{method_name(method)}, {condition}"))
        xs = [middle(part) for part in found]
        drawn.append(frame.line(xs, [part["accuracy"] for part in found], style))
        for x, part in zip(xs, found, strict=True):
            drawn.append(frame.dot(x, part["accuracy"], style, f"{x:.2f}: {100 * part['accuracy']:.2f} %"))
            bounds = next((part[key] for key in _INTERVALS if part.get(key)), None)
            if bounds and bounds["lower"] is not None:
                drawn.append(frame.whisker(x, bounds["lower"], bounds["upper"], style))
    picture = element("figure", frame.svg(f"Accuracy against the visible share, {name}", drawn))
    return joined_figures(
        [picture], legend(names), "Each dot stands in the middle of its part; whiskers are 95 % intervals."
    )


def items(found: object) -> list[tuple[str | int, str, Mapping[str, Any]]]:
    """Return (key, name, figures) of each part, of a list or a dictionary of them."""
    if isinstance(found, Mapping):
        return [(str(key), str(key), part) for key, part in found.items()]
    if isinstance(found, Sequence) and not isinstance(found, str):
        return [(number, _label(part), part) for number, part in enumerate(found)]
    return []


def _label(part: Mapping[str, Any]) -> str:
    return str(part["name"]) if "name" in part else f"{part['from']:.2f} to {part['to']:.2f}"


def middle(part: Mapping[str, Any]) -> float:
    """Return the middle of a part of the visible share."""
    return (part["from"] + part["to"]) / 2
