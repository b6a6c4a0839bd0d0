"""A comparison of detectors as one page: figures, differences, curves, recall in groups, the worst photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.detection.summary import IOU
from evaluation.report.detection.charts import by_middle, by_name, precision_recall
from evaluation.report.detection.photographs import DrawnPhoto, drawn_photo, photo_legend
from evaluation.report.page.document import document
from evaluation.report.page.figures import figure, look, with_interval
from system.page.charts import legend
from system.page.markup import Child, Markup, element, table

MAX_DRAWN = 8  # lines of a chart: as many as there are styles
Results = Mapping[str, Any]
_MEASURES = {"ap": "percent", "ap_50": "percent", "recall": "percent", "mistakes": "score"}
_HEADS = ("AP 0.5:0.95", "AP 0.5", "recall", "mistakes a photograph")
_GROUPS = {
    "by_size": "Recall by the side of a square of the face's area, in pixels of the photograph",
    "by_hidden": "Recall by the share of the face that is hidden",
    "by_occluder": "Recall by what covers the face",
}
_GROUPS_NOTE = (
    f"A face is found where a detection in use overlaps it by {IOU}. Intervals are exact (Clopper-Pearson, 95 %) for"
    " faces that are independent; those of one photograph are not, so the intervals are too narrow."
)
_POINTS = {
    "found": "all faces that this detector found",
    "clear": "those of them that nothing hides",
    "common": "faces that all detectors found",
}


def build_detection_page(results: Results, worst: Mapping[str, Sequence[DrawnPhoto]]) -> str:
    """Return the page.

    Args:
        results: of `compare_detectors`, with "protocol", facts by name, and of WIDER FACE "wider", by detector the
            average precision of each subset.
        worst: by detector the photographs in which it misses most or errs most.
    """
    names = list(results["detectors"])
    sections: dict[str, Child] = {
        "Answer": [_test_size(results), _answer(results, names)],
        "Paired differences": _differences(results),
        "WIDER FACE": _wider(results, names),
        "Precision and recall": _curves(results, names[:MAX_DRAWN]),
        "Which faces are found": _groups(results, names),
        "Five points": _points(results, names),
        "Worst photographs": _worst(worst),
        "Protocol": table(
            ["fact", "value"], results["protocol"].items(), "What was measured, and how.", class_="facts"
        ),
    }
    about = [f"{results['num_photos']:,} photographs, {results['num_faces']:,} faces that count"]
    return document("Comparison of detectors", about, sections)


def _test_size(results: Results) -> Markup:
    return element("p", "Tested at: ", results["protocol"]["test size"], ".", class_="answer")


def _answer(results: Results, names: Sequence[str]) -> Markup:
    rows = []
    for name in names:
        at = ("detectors", name)
        measured = [
            with_interval(results, (*at, measure, "estimate"), [(*at, measure)], form)
            for measure, form in _MEASURES.items()
        ]
        rows.append([
            name, *measured,
            figure(results, (*at, "points", "found", "median"), "share"),
            figure(results, (*at, "seconds_ratio"), "score"),
        ])  # fmt: skip
    caption = (
        "AP and recall in percent, with 95 % intervals over photographs. AP is of all detections above a low score;"
        " recall, mistakes (detections of no face) and points are those of a detector in use. Points: median error over"
        " the distance between the eyes. Time: median of a photograph, over the first detector's."
    )
    return table(["detector", *_HEADS, "points", "time"], rows, caption)


def _differences(results: Results) -> Markup | None:
    rows = []
    for number, pair in enumerate(results["differences"]):
        at = ("differences", number)
        cells = [
            with_interval(
                results, (*at, measure, "estimate"), [(*at, measure)], "points" if form == "percent" else form
            )
            for measure, form in _MEASURES.items()
        ]
        rows.append([f"{pair['first']} minus {pair['second']}", *cells])
    caption = "First minus second on the same resamples of photographs; AP and recall in points."
    return table(["difference", *_HEADS], rows, caption) if rows else None


def _wider(results: Results, names: Sequence[str]) -> Markup | None:
    if "wider" not in results:
        return None
    rows = [
        [name, *(figure(results, ("wider", name, subset), "percent") for subset in results["wider"][name])]
        for name in names
    ]
    head = ["detector", *results["wider"][names[0]]]
    caption = "Average precision in percent by WIDER FACE's own rules; the test size moves hard by tens of points."
    return table(head, rows, caption)


def _curves(results: Results, names: Sequence[str]) -> list[Markup]:
    drawn = {name: results["detectors"][name]["curve"] for name in names}
    return [element("div", element("figure", precision_recall(drawn)), class_="figures"), _legend(names)]


def _groups(results: Results, names: Sequence[str]) -> list[Child]:
    parts: list[Child] = []
    for key, title in _GROUPS.items():
        found = {name: groups for name in names if (groups := look(results, ("detectors", name, key)))}
        if not found:
            continue
        shown = {name: found[name] for name in names[:MAX_DRAWN]}
        chart = by_name(shown) if key == "by_occluder" else by_middle(shown, is_share=key == "by_hidden")
        first = found[names[0]]
        rows = [
            [group["name"], f"{group['num_faces']:,}", *(_recall(results, name, key, place) for name in names)]
            for place, group in enumerate(first)
        ]
        parts += [
            element("h3", title),
            element("div", element("figure", chart), class_="figures"),
            _legend(names[:MAX_DRAWN]),
            table(["faces", "number", *names], rows, f"{title}: percent, with 95 % intervals."),
        ]
    return [*parts, element("p", _GROUPS_NOTE, class_="note")]


def _recall(results: Results, name: str, key: str, place: int) -> Child:
    at = ("detectors", name, key, place)
    return with_interval(results, (*at, "recall"), [(*at, "interval")], "percent")


def _points(results: Results, names: Sequence[str]) -> list[Child] | None:
    rows = []
    for kind, text in _POINTS.items():
        for name in names:
            at = ("detectors", name, "points", kind)
            if look(results, at) is not None:
                forms = {
                    "median": "share",
                    "mean": "share",
                    "p95": "share",
                    "failures": "percent",
                    "num_faces": "count",
                }
                rows.append([f"{name}, {text}", *(figure(results, (*at, key), form) for key, form in forms.items())])
    if not rows:
        return None
    head = ["detector, faces", "median", "mean", "95th percentile", "above 0.1, %", "faces"]
    caption = (
        "Mean distance of the five points over the distance between the eyes, which turned heads make small. A detector"
        " that misses hard faces looks better: compare on the faces that all found."
    )
    return [table(head, rows, caption)]


def _worst(worst: Mapping[str, Sequence[DrawnPhoto]]) -> list[Child] | None:
    parts: list[Child] = []
    for name, photos in worst.items():
        if photos:
            parts += [element("h3", name), element("div", map(drawn_photo, photos), class_="figures")]
    return [photo_legend(), *parts] if parts else None


def _legend(names: Sequence[str]) -> Markup:
    return legend((f"s{number}", name) for number, name in enumerate(names))
