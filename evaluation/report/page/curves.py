"""ROC, DET and histograms of a set, and a slider of the threshold beside each histogram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evaluation.report.page.answer import entries, method_name, place_of
from evaluation.report.page.figures import Place, figure, pointer
from evaluation.report.results import METHOD_NAMES, Entry, Results
from system.page.charts import Frame, joined_figures, legend, linear_axis, log_axis
from system.page.markup import Markup, element

_CONDITION_CLASSES = {"clean": "solid", "occluded": "dashed"}
KINDS = {"genuine": "genuine pairs", "impostor": "impostor pairs"}
_HISTOGRAM_SIZE = {"width": 380, "height": 230}  # three stand side by side
THINNING = (
    "Drawn are points of the whole curve at rates evenly spaced on a log axis, joined by straight lines; a rate of 0"
    " has no place on a log axis."
)

Found = Sequence[tuple[str, str, Entry]]  # (condition, method, entry) of one set


def method_class(condition: str, method: str) -> str:
    """Return the classes of a line: color by method, dashes by condition."""
    return f"{method if method in METHOD_NAMES else 'other'} {_CONDITION_CLASSES.get(condition, 'dotted')}"


def curves(results: Results, name: str, number: int) -> Markup:
    """Return ROC and DET of a set side by side; the DET where there is one."""
    found = [(condition, method, entry) for other, condition, method, entry in entries(results) if other == name]
    names = [(method_class(c, m), f"{method_name(m)}, {c}") for c, m, _ in found]
    drawn = [element("figure", element("figcaption", "ROC"), _roc(name, found, number))]
    if any("det" in entry for _, _, entry in found):
        drawn.append(element("figure", element("figcaption", "DET"), _det(name, found, number)))
    return joined_figures([*drawn], legend(names), THINNING)


def first_draw_note(results: Results, name: str) -> Markup | None:
    """Return what is of the first draw of occluders alone; None where there was one."""
    drawn = [entry["occlusion_draws"]["num"] for other, *_, entry in entries(results)
             if other == name and entry.get("occlusion_draws")]  # fmt: skip
    if not drawn:
        return None
    text = (
        f"Tables and ROC of occluded pairs are means over {drawn[0]} draws of occluders. Their histograms, DET, groups"
        " and hardest pairs are of the first draw alone."
    )
    return element("p", text, class_="note")


def _roc(name: str, found: Found, number: int) -> Markup:
    smallest = min((far for _, _, entry in found for far in entry["roc"]["far"] if far > 0), default=1e-3)
    frame = Frame(log_axis("false-accept rate", smallest), linear_axis("true-accept rate", 0, 1))
    lines = [
        frame.line(entry["roc"]["far"], entry["roc"]["tar"], method_class(c, m), f"{method_name(m)}, {c}")
        for c, m, entry in found
    ]
    return frame.svg(f"ROC of {name}", lines, chart=f"roc-{number}")


def _det(name: str, found: Found, number: int) -> Markup:
    curves = [(c, m, entry["det"]) for c, m, entry in found if "det" in entry]
    ends = [min((r for _, _, det in curves for r in det[kind] if r > 0), default=1e-3) for kind in ("fmr", "fnmr")]
    frame = Frame(log_axis("false match rate", ends[0]), log_axis("false non-match rate", ends[1]))
    lines = [frame.line(det["fmr"], det["fnmr"], method_class(c, m), f"{method_name(m)}, {c}") for c, m, det in curves]
    return frame.svg(f"DET of {name}", lines, chart=f"det-{number}")


def histograms(results: Results, name: str, number: int) -> Markup:
    """Return a histogram with its thresholds for each condition and method of a set."""
    drawn = [
        _histogram(results, place_of(name, condition, method), entry, f"{method_name(method)}, {condition}",
                   f"{number}-{place}")
        for place, (other, condition, method, entry) in enumerate(entries(results))
        if other == name
    ]  # fmt: skip
    names = [*KINDS.items(), ("fold", "thresholds of the accuracy, one a fold"), ("limit", "thresholds of TAR at FAR")]
    return joined_figures(drawn, legend(names), "Share of the pairs of a kind in each of 40 equal bins of the score.")


def _histogram(results: Results, place: Place, entry: Entry, title: str, number: str) -> Markup:
    counts = entry["histogram"]
    edges = counts["edges"]
    shares = {kind: [count / (sum(counts[kind]) or 1) for count in counts[kind]] for kind in KINDS}
    top = max(max(values) for values in shares.values())
    frame = Frame(linear_axis("score", edges[0], edges[-1]), linear_axis("share of pairs", 0, 1.05 * top or 1),
                  **_HISTOGRAM_SIZE)  # fmt: skip
    bars = [frame.steps(edges, values, f"{kind} bars", KINDS[kind]) for kind, values in shares.items()]
    folds = [
        frame.upright(t, "fold", f"threshold of a fold: {t:.4g}") for t in entry["fold_threshold"] if t is not None
    ]
    limits = [
        frame.upright(point["threshold"], "limit", f"FAR {far}: {point['threshold']:.4g}")
        for far, point in entry["tar_at_far"].items()
        if point["threshold"] is not None
    ]
    picture = frame.svg(f"Histogram of scores, {title}", bars, folds, limits, chart=f"histogram-{number}")
    slider = _slider(len(entry["det"]["threshold"]), title, number) if entry.get("det") else None
    return element("figure", element("figcaption", title), picture, _thresholds(results, place, entry), slider)


def _thresholds(results: Results, place: Place, entry: Entry) -> Markup | None:
    told = [
        [
            ", " if number else "Thresholds: ",
            figure(results, (*place, "tar_at_far", far, "threshold"), "score"),
            f" at FAR {far}",
        ]
        for number, far in enumerate(
            far for far, point in entry["tar_at_far"].items() if point["threshold"] is not None
        )
    ]
    return element("p", told, class_="note") if told else None


def _slider(num_points: int, title: str, number: str) -> Markup:
    """Return the slider that the script brings to life; without it there is none."""
    label = element("label", "Threshold", for_=f"slider-{number}")
    control = element(
        "input", type="range", id=f"slider-{number}", min=0, max=num_points - 1, step=1, value=0, data_slider=number,
        aria_label=f"Threshold of {title}",
    )  # fmt: skip
    return element("div", label, control, element("output", for_=f"slider-{number}"), class_="slider", hidden=True)


def slider_data(results: Results) -> dict[str, Mapping[str, object]]:
    """Return what the script needs of each slider, by its number, as results.json has it."""
    data: dict[str, Mapping[str, object]] = {}
    sets = list(results["benchmarks"])
    for place, (name, condition, method, entry) in enumerate(entries(results)):
        if entry.get("det"):
            number = sets.index(name)
            data[f"{number}-{place}"] = {
                "set": number,
                "from": pointer((*place_of(name, condition, method), "det")),
                "genuine": entry["num_genuine"],
                "impostor": entry["num_impostor"],
                **{key: entry["det"][key] for key in ("threshold", "fmr", "fnmr")},
            }
    return data
