"""The table of a comparison of detectors as Markdown, for a terminal and for a document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_NOTHING = "-"


def detection_table(results: Mapping[str, Any]) -> str:
    """Return the figures of each detector in a row, recall in groups of faces in rows below, and the test size."""
    detectors = results["detectors"]
    head = ["detector", "AP 0.5:0.95, %", "AP 0.5, %", "recall, %", "mistakes a photograph", "points", "time"]
    rows = [
        [
            name, *(_percent(of[key]) for key in ("ap", "ap_50", "recall")), _plain(of["mistakes"], "{:.2f}"),
            _share(of["points"]["found"]), _number(of.get("seconds_ratio"), "{:.2f}x"),
        ]
        for name, of in detectors.items()
    ]  # fmt: skip
    parts = [_aligned(head, rows)]
    if differences := results["differences"]:
        cells = [
            [f"{pair['first']} minus {pair['second']}", _percent(pair["ap"], "+"), _percent(pair["ap_50"], "+"),
             _percent(pair["recall"], "+"), _plain(pair["mistakes"], "{:+.2f}")]
            for pair in differences
        ]  # fmt: skip
        parts.append(_aligned(["difference", *head[1:5]], cells))
    if "wider" in results:
        subsets = list(next(iter(results["wider"].values())))
        found = [[name, *(_number(100 * of[subset], "{:.2f}") for subset in subsets)]
                 for name, of in results["wider"].items()]  # fmt: skip
        parts.append(_aligned(["WIDER FACE's AP, %", *subsets], found))
    for key, heading in (
        ("by_size", "recall by size, %"),
        ("by_hidden", "by share hidden"),
        ("by_occluder", "by cover"),
    ):
        groups = next(iter(detectors.values())).get(key)
        if groups:
            cells = [
                [group["name"], f"{group['num_faces']:,}", *(_recall(of[key][place]) for of in detectors.values())]
                for place, group in enumerate(groups)
            ]
            parts.append(_aligned([heading, "faces", *detectors], cells))
    protocol = results["protocol"]
    size = f"{results['num_photos']:,} photographs, {results['num_faces']:,} faces; tested at: {protocol['test size']}"
    return "\n\n".join([*parts, f"{size}. {results['intervals']}."])


def _percent(found: Mapping[str, float | None], sign: str = "") -> str:
    values = [found["estimate"], found["lower"], found["upper"]]
    if None in values:
        return _NOTHING
    estimate, lower, upper = (f"{100 * value:{sign}.1f}" for value in values if value is not None)
    return f"{estimate} [{lower}, {upper}]"


def _plain(found: Mapping[str, float | None], form: str) -> str:
    bounds = (_number(found[key], form) for key in ("estimate", "lower", "upper"))
    estimate, lower, upper = bounds
    return f"{estimate} [{lower}, {upper}]"


def _recall(group: Mapping[str, Any]) -> str:
    bounds = group["interval"]
    return f"{100 * group['recall']:.0f} [{100 * bounds['lower']:.0f}, {100 * bounds['upper']:.0f}]"


def _share(points: Mapping[str, float] | None) -> str:
    return _NOTHING if points is None else f"{points['median']:.2f}"


def _number(value: float | None, form: str) -> str:
    return _NOTHING if value is None else form.format(value)


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns are as wide as their longest cell, figures to the right."""
    head, *rows = [[cell.replace("|", "/") for cell in row] for row in [head, *rows]]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [
        "| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |"
        for row in [head, *rows]
    ]
    rule = "| " + " | ".join(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])
