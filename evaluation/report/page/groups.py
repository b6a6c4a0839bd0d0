"""Figures of groups of a set's pairs: by visible share, by occluder, by people; where results.json has them."""

from __future__ import annotations

import re

from evaluation.report.page.answer import entries, method_name, place_of
from evaluation.report.page.curves import method_class
from evaluation.report.page.figures import Place, figure, with_interval
from evaluation.report.results import Entry, Results
from system.page.charts import Frame, joined_figures, legend, linear_axis
from system.page.markup import Child, Markup, element, table

_RATES = ("accuracy", "tar", "far")
_COUNTS = ("num_genuine", "num_impostor", "num_people")
_SHARE = re.compile(r"(\d+)-(\d+) %")  # the name of a part of the visible share


def by_groups(results: Results, name: str) -> list[Child]:
    """Return a part of the page for whatever the pairs of a set are grouped by."""
    kinds = dict.fromkeys(
        by for other, _, _, entry in entries(results) if other == name for by in entry.get("groups") or {}
    )
    return [[element("h3", f"By group: {by}"), _chart(results, name, by), _table(results, name, by)] for by in kinds]


def _table(results: Results, name: str, by: str) -> Markup:
    rows = []
    for other, condition, method, entry in entries(results):
        for group in _groups(entry, by) if other == name else ():
            place: Place = (*place_of(name, condition, method), "groups", by, group)
            rates = [_rate(results, place, rate) for rate in _RATES]
            counts = [figure(results, (*place, count), "count") for count in _COUNTS]
            rows.append([group, f"{method_name(method)}, {condition}", *rates, *counts])
    head = ["group", "score", "accuracy", "TAR", "FAR", "genuine", "impostor", "people"]
    return table(head, rows, "In percent, at the thresholds of the whole set, with 95 % intervals.")


def _rate(results: Results, place: Place, rate: str) -> Child:
    return with_interval(results, (*place, rate, "estimate"), [(*place, rate)], "percent")


def _chart(results: Results, name: str, by: str) -> Markup | None:
    """Return accuracy against the visible share; None where the groups are others."""
    frame = Frame(linear_axis("visible share of the face in %", 0, 100), linear_axis("accuracy", 0, 1))
    drawn: list[Child] = []
    names = []
    for other, condition, method, entry in entries(results):
        points = _points(entry, by) if other == name else []
        if not points:
            continue
        style = method_class(condition, method)
        names.append((style, f"{method_name(method)}, {condition}"))
        drawn.append(frame.line([x for x, _ in points], [told["estimate"] for _, told in points], style))
        for x, told in points:
            drawn.append(frame.dot(x, told["estimate"], style, f"{100 * told['estimate']:.2f} %"))
            if told["lower"] is not None:
                drawn.append(frame.whisker(x, told["lower"], told["upper"], style))
    if not drawn:
        return None
    picture = element("figure", frame.svg(f"Accuracy against the visible share, {name}", drawn))
    note = "Each dot stands in the middle of its part of the share; whiskers are 95 % intervals."
    return joined_figures([picture], legend(names), note)


def _points(entry: Entry, by: str) -> list[tuple[float, Entry]]:
    """Return (middle of the share, accuracy) of the parts that have pairs."""
    parts = ((_SHARE.fullmatch(group), figures) for group, figures in _groups(entry, by).items())
    return [
        ((int(share[1]) + int(share[2])) / 2, figures["accuracy"])
        for share, figures in parts
        if share and figures["accuracy"]["estimate"] is not None
    ]


def _groups(entry: Entry, by: str) -> Entry:
    return (entry.get("groups") or {}).get(by) or {}
