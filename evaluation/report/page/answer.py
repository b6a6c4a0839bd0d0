"""The first of the page: how good the scores are, in one sentence and one table; and everything else as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from evaluation.report.page.figures import Place, figure, interval, look, with_interval
from evaluation.report.results import METHOD_NAMES, Entry, Results
from system.page.markup import Child, Markup, element, table

_PERCENT_NOTE = "All rates are in percent; brackets hold 95 % intervals, over people where they are known."
SPREAD_NOTE = "Without an interval: ± the standard deviation over the folds."


def entries(results: Results) -> Iterator[tuple[str, str, str, Entry]]:
    """Yield (set, condition, method, entry) of everything that was measured."""
    for name, benchmark in results["benchmarks"].items():
        for condition, methods in benchmark["conditions"].items():
            for method in sorted(methods, key=_order):
                yield name, condition, method, methods[method]


def place_of(name: str, condition: str, method: str) -> Place:
    """Return where an entry stands in results.json."""
    return "benchmarks", name, "conditions", condition, method


def method_name(method: str) -> str:
    """Return what the page calls a method."""
    return METHOD_NAMES.get(method, method)


def columns(results: Results) -> list[tuple[str, str]]:
    """Return the (condition, method) that occur in any set, conditions in their order."""
    found = {(condition, method): None for _, condition, method, _ in entries(results)}
    conditions = list(dict.fromkeys(condition for condition, _ in found))
    return sorted(found, key=lambda column: (conditions.index(column[0]), _order(column[1])))


def headline(results: Results) -> Markup:
    """Return the answer in a sentence: how often the best known score is right about clean pairs, set by set."""
    condition, method = headline_column(results)
    said: list[Child] = []
    for name, benchmark in results["benchmarks"].items():
        if method in benchmark["conditions"].get(condition, {}):
            place = (*place_of(name, condition, method), "accuracy")
            said.append([", " if said else "", figure(results, place, "percent"), f" % of {name}"])
    return element(
        "p", f"The {method_name(method)} score is right about ", said, f", {condition} pairs.", class_="answer"
    )


def headline_column(results: Results) -> tuple[str, str]:
    """Return the (condition, method) that speaks for all: clean pairs and the combined score, where there are such."""
    found = columns(results)
    condition = found[0][0]
    methods = [method for other, method in found if other == condition]
    return condition, "combined" if "combined" in methods else methods[0]


def accuracy_table(results: Results) -> Markup:
    """Return sets against conditions and methods."""
    chosen = columns(results)
    rows = [[name, *(accuracy(results, name, *column) for column in chosen)] for name in results["benchmarks"]]
    head = ["set", *(f"{method_name(method)}, {condition}" for condition, method in chosen)]
    return table(head, rows, f"Verification accuracy, mean over the folds. {_PERCENT_NOTE} {SPREAD_NOTE}")


def accuracy(results: Results, name: str, condition: str, method: str) -> Child:
    """Return an accuracy with its interval, or with its spread where it has none."""
    place = place_of(name, condition, method)
    value = figure(results, (*place, "accuracy"), "percent")
    bounds = interval(results, (*place, "accuracy_interval"), "percent")
    if bounds is None and look(results, (*place, "std")) is not None:
        bounds = element("span", "± ", figure(results, (*place, "std"), "percent"), class_="interval")
    return [value, " ", bounds]


def measures_table(results: Results, name: str) -> Markup:
    """Return every measure of a set, a row per condition and method."""
    conditions = results["benchmarks"][name]["conditions"]
    fars = list(
        dict.fromkeys(far for methods in conditions.values() for e in methods.values() for far in e["tar_at_far"])
    )
    rows: list[list[Child]] = []
    for other, condition, method, entry in entries(results):
        if other == name:
            place = place_of(name, condition, method)
            rows.append(_measures(results, place, f"{method_name(method)}, {condition}", fars))
            if entry.get("occlusion_draws"):
                rows.append(_spread(results, (*place, "occlusion_draws"), fars))
    head = [
        "score",
        "accuracy",
        "balanced",
        "EER",
        "AUC",
        *(f"TAR at FAR {far}" for far in fars),
        "genuine",
        "impostor",
    ]
    return table(head, rows, f"Every measure. {_PERCENT_NOTE} AUC is a share.")


def _measures(results: Results, place: Place, title: str, fars: Sequence[str]) -> list[Child]:
    def told(measure: str, form: str) -> Child:
        return with_interval(results, (*place, measure), [(*place, f"{measure}_interval")], form)

    return [
        title,
        told("accuracy", "percent"),
        told("balanced_accuracy", "percent"),
        told("eer", "percent"),
        told("auc", "share"),
        *(_rate(results, (*place, "tar_at_far", far)) for far in fars),
        figure(results, (*place, "num_genuine"), "count"),
        figure(results, (*place, "num_impostor"), "count"),
    ]


def _spread(results: Results, place: Place, fars: Sequence[str]) -> list[Child]:
    """Return the row of the deviations between draws of occluders, below the means over these draws."""

    def told(*measure: str) -> Child:
        form = "share" if measure == ("auc",) else "percent"
        return figure(results, (*place, "std", *measure), form)

    measures = [told(measure) for measure in ("accuracy", "balanced_accuracy", "eer", "auc")]
    title: Child = ["± over ", figure(results, (*place, "num"), "count"), " draws"]
    return [title, *measures, *(told("tar_at_far", far) for far in fars), "", ""]


def _rate(results: Results, place: Place) -> Child:
    return with_interval(results, (*place, "tar"), [(*place, "interval")], "percent")


def identification_table(results: Results, name: str) -> Markup | None:
    """Return how searching each image among all others goes; None where nobody searched."""
    found = [
        (f"{method_name(method)}, {condition}", (*place_of(name, condition, method), "identification"), entry)
        for other, condition, method, entry in entries(results)
        if other == name and entry.get("identification")
    ]
    if not found:
        return None
    ranks = list(found[0][2]["identification"]["rank_accuracy"])
    rows = [
        [
            title,
            *(figure(results, (*place, "rank_accuracy", rank), "percent") for rank in ranks),
            figure(results, (*place, "num_probes"), "count"),
            figure(results, (*place, "num_strangers"), "count"),
            *(entry["identification"].get(side, "–") for side in ("probes", "gallery")),
        ]
        for title, place, entry in found
    ]
    head = ["score", *(f"within rank {rank}" for rank in ranks), "searches", "strangers", "probes are", "others are"]
    caption = "Each image is searched among all others: percent of the searches. Strangers: people with one image."
    return table(head, rows, caption)


def comparisons_table(results: Results) -> Markup | None:
    """Return the paired differences; None where there are none."""
    found: Mapping[str, Entry] = results.get("comparisons") or {}
    if not found:
        return None
    rows = []
    for name, entry in found.items():
        place: Place = ("comparisons", name)
        p_value = figure(results, (*place, "p_value"), "score") if "p_value" in entry else "–"
        rows.append([name, with_interval(results, (*place, "estimate"), [place], "points"), p_value])
    return table(
        ["difference", "points", "p"], rows, "Paired differences on the same pairs, in points, with 95 % intervals."
    )


def _order(method: str) -> int:
    return list(METHOD_NAMES).index(method) if method in METHOD_NAMES else len(METHOD_NAMES)
