"""What the figures depend on, and what they cannot tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from evaluation.report.page import searches
from evaluation.report.page.answer import entries, method_name, place_of
from evaluation.report.page.figures import figure
from evaluation.report.results import Results
from system.page.markup import Child, Markup, element, table

MAX_ITEMS = 20  # of a list that is shown
# Our own words and numbers. Of any other fact an anonymous page says no more than its name: it may hold a path.
ANONYMOUS_FACTS = frozenset((
    "flip_fusion", "color_space", "precision", "interval_method", "fusion_weights", "fusion_source", "seed", "head",
    "occlude", "occluders", "occlusion_draws", "val_occlusion", "shortlist", "map_dtype", "matched", "step", "versions",
    "template", "detector", "schema", "score_normalization", "keep_norm", "detector_scores", "tar_at_nearest_far",
    "ranks_count", "distractors", "encoder",
))  # fmt: skip
LEFT_OUT = "left out"


def protocol(results: Results, anonymous: bool) -> list[Markup | None]:
    """Return tables: the facts of all sets, and those of each."""
    facts = {name: value for name, value in results["protocol"].items() if name not in ("folds", "precision")}
    rows = [
        [name, LEFT_OUT if anonymous and name not in ANONYMOUS_FACTS else told(value)] for name, value in facts.items()
    ]
    of_all = table(["fact", "value"], rows, "How all sets were evaluated.", class_="facts")
    searched = [[name, element("code", found["checksum"])] for name, found in (results.get("searches") or {}).items()]
    of_searches = table(["set", "checksum"], searched, "What was searched.", class_="facts") if searched else None
    return [of_all, _sets(results) if results["benchmarks"] else None, of_searches]


def _sets(results: Results) -> Markup:
    folds = results["protocol"].get("folds")
    rows = []
    for name, benchmark in results["benchmarks"].items():
        condition, method = next((c, m) for other, c, m, _ in entries(results) if other == name)
        place = place_of(name, condition, method)
        counts = [figure(results, (*place, kind), "count") for kind in ("num_genuine", "num_impostor")]
        of_set = folds.get(name) if isinstance(folds, Mapping) else folds
        checksum = element("code", benchmark["checksum"])
        rows.append([name, *counts, told(of_set), ", ".join(benchmark["conditions"]), checksum])
    head = ["set", "genuine pairs", "impostor pairs", "folds", "conditions", "checksum"]
    return table(head, rows, "What each set is.", class_="facts")


def told(value: object) -> Child:
    """Return a fact as text, of a long list its beginning."""
    if isinstance(value, Mapping):
        return [element("div", f"{name}: ", told(item)) for name, item in value.items()]
    if isinstance(value, Sequence) and not isinstance(value, str):
        shown = [str(item) for item in value[:MAX_ITEMS]]
        more = len(value) - len(shown)
        return (", ".join(shown) or "none") + (f" and {more:,} more" if more else "")
    return "none" if value is None else str(value)


def unresolved(results: Results) -> Markup:
    """Return what these pairs cannot tell."""
    found = list(dict.fromkeys(_limits(results)))
    if not found:
        found = ["Every rate that was asked for is resolved by the pairs."]
    return element("ul", [element("li", text) for text in found])


def _limits(results: Results) -> Iterator[str]:
    if results["synthetic"]:
        yield "The faces are rendered, not photographed: nothing here says how well photographs are told apart."
    yield from (f"{warning}." for warning in results.get("warnings") or ())
    if results["missing"]:
        yield f"Sets that were not found: {', '.join(results['missing'])}."
    if precision := results["protocol"].get("precision"):
        yield f"How exactly accuracy can be known: {precision}."
    yield from searches.limits(results)
    for name, condition, method, entry in entries(results):
        title = f"{name}, {method_name(method)}, {condition}"
        yield from (f"{name}: {point['note']}." for point in entry["tar_at_far"].values() if point["note"])
        if entry["auc_interval"] is None:
            yield f"{title}: the AUC has no interval."
        if entry["balanced_accuracy"] is None:
            yield f"{title}: no balanced accuracy, for a fold holds one kind of pairs, or the result is of an old form."
        if entry["num_genuine"] != entry["num_impostor"]:
            answer = "same" if entry["num_genuine"] > entry["num_impostor"] else "different"
            yield (
                f'{name}: accuracy depends on the mix of pairs; always answering "{answer}" already gets'
                f" {100 * entry['constant_accuracy']:.2f} %. Balanced accuracy, AUC, EER and TAR at FAR do not."
            )
