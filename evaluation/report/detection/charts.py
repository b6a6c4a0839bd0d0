"""Charts of a comparison of detectors; the n-th has the n-th style of lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from system.page.charts import LEFT, Axis, Frame, linear_axis, log_axis
from system.page.markup import Child, Markup, element

Groups = Sequence[Mapping[str, Any]]
_ROW = 40  # pixels of a word
_APART = 0.02  # of the axis, so that intervals of detectors do not hide each other


def precision_recall(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> Markup:
    """Return precision over recall of detectors by name."""
    frame = Frame(linear_axis("recall", 0, 1), linear_axis("precision", 0, 1))
    lines = [
        frame.line(curve["recall"], curve["precision"], f"s{number}", name)
        for number, (name, curve) in enumerate(curves.items())
    ]
    return frame.svg("Precision over recall", lines)


def by_middle(groups: Mapping[str, Groups], is_share: bool) -> Markup:
    """Return recall over what faces are grouped by, at the median of each group: shares in [0, 1], or sizes."""
    middles = [group["middle"] for found in groups.values() for group in found]
    if is_share:
        axis = linear_axis("share of the face that is hidden", 0, 1)
    else:
        axis = log_axis("side of the face in pixels", 0.8 * max(1.0, min(middles)), 1.25 * max(middles))
    frame = Frame(axis, linear_axis("recall", 0, 1))
    marks: list[Child] = []
    for number, (name, found) in enumerate(groups.items()):
        shift = _APART * (number - (len(groups) - 1) / 2)
        places = [_shifted(axis, group["middle"], shift) for group in found]
        marks.append(frame.line(places, [group["recall"] for group in found], f"s{number}", name))
        for place, group in zip(places, found, strict=True):
            bounds = group["interval"]
            marks.append(frame.whisker(place, bounds["lower"], bounds["upper"], f"s{number}"))
            marks.append(frame.dot(place, group["recall"], f"s{number}", f"{name}, {group['name']}"))
    return frame.svg(f"Recall over the {axis.label}", marks)


def by_name(groups: Mapping[str, Groups]) -> Markup:
    """Return the recall of each word, in a row of its own with a dot for each detector."""
    words = [group["name"] for group in next(iter(groups.values()))]
    frame = Frame(linear_axis("recall", 0, 1), Axis("", 0, len(words), ()), height=_ROW * len(words) + 60)
    marks: list[Child] = []
    for row, word in enumerate(words):
        top = len(words) - row
        label = frame.place(0, top - 0.3)
        assert label is not None, "rows lie within the axis"
        marks.append(element("text", word, x=LEFT + 4, y=f"{label[1]:.1f}"))
        for number, (name, found) in enumerate(groups.items()):
            height = top - 0.4 - 0.5 * (number + 1) / (len(groups) + 1)
            bounds, style = found[row]["interval"], f"s{number}"
            marks.append(frame.line((bounds["lower"], bounds["upper"]), (height, height), style))
            marks.append(frame.dot(found[row]["recall"], height, style, f"{name}, {word}"))
    return frame.svg("Recall by what covers the face", marks)


def _shifted(axis: Axis, value: float, share: float) -> float:
    """Return a value moved by a share of the axis, but not beyond its ends."""
    if axis.scale == "log":
        moved = value * (axis.high / axis.low) ** share
    else:
        moved = value + share * (axis.high - axis.low)
    return min(max(moved, axis.low), axis.high)
