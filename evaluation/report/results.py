"""The result of an evaluation as one dictionary, written as JSON and as text.

Schema (every number may be null: it cannot be computed, or is infinite):

    schema      3; `read_results` reads 1 and 2 too
    synthetic   true if any face was rendered, not photographed
    missing     names of the benchmark sets that were not found
    protocol    flip_fusion, color_space, folds, seed, interval_method, fusion_weights {matcher: weight}, fusion_source;
                further facts may follow, among them head: the margin head that trained the embedding
    benchmarks  {name: {checksum, conditions}}, maybe also hardest
      checksum    of the benchmark's file, as text
      conditions  {"clean" | "occluded": {method: entry}}, methods "adaface" (the embedding, whatever head trained it),
                  "qaconv", "combined"
        entry       num_genuine, num_impostor; accuracy, std, fold_accuracy, fold_threshold, accuracy_interval;
                    balanced_accuracy (genuine and impostor pairs count equally), constant_accuracy (that of giving
                    every pair the more frequent answer); auc, auc_interval, eer (equal error rate), cllr (bits, each
                    fold calibrated by the others; absent from older files), tar_at_far {FAR:
                    {tar, far, threshold, num_false_accepts, note, interval}} (a FAR that the pairs do not resolve has
                    nulls and a note that says why), roc {far, tar}, histogram {edges, genuine, impostor}; an interval
                    is {estimate, lower, upper, num_resamples} or null, and may be absent but for auc_interval;
                    det {fmr, fnmr, threshold} (exact points of the whole curve, thinned as `det_points` says; accepted
                    is score >= threshold); where every image was searched among all others, identification
                    {rank_accuracy {k: share}, num_probes, num_strangers, probes and gallery ("clean" or "occluded", how
                    their images are)}; where occluders were drawn several times, occlusion_draws {num, std {measure:
                    number}}: figures are means over the draws, std their sample deviations; histogram, det, groups and
                    hardest are those of the first draw; where pairs were grouped, groups {by what: {name: {num_genuine,
                    num_impostor, num_people, accuracy, tar, far, tar_exact, far_exact}}}: rates at the thresholds of
                    the whole set with their intervals, the exact ones as if pairs were independent
      hardest     {condition: {method, genuine, impostor}}: the genuine pairs with the lowest and the impostor pairs
                  with the highest scores of that method, hardest first, each {place (in the set's pairs), score, names
                  (of both files, or null), picture (a file beside this one with both images side by side, or null),
                  cells ([h, w] of a map), visibility (of both, [h, w] in [0, 1], or null), matches ([[cell, cell,
                  cosine]] that are each other's best, cells row by row from 0, or null)}
    searches    (optional) {set: {checksum, ranks_count ("people" or "images" of others take a rank each), entries
                {title: entry}}} of probes that are searched in a gallery: num_probes (whose person it holds),
                num_people (of them), num_strangers, num_gallery; probes and gallery, which images both are, in words;
                ties; cmc {rank: interval}, cmc_curve {rank, share}; and with strangers tpir_at_fpir {FPIR: {rank_1,
                any_rank, threshold, rank_1_interval, any_rank_interval}}, null where the strangers do not resolve it,
                and open_set {fpir, fnir}: exact points, thinned, of the person first and named. An evaluation of
                searches alone has no benchmarks.
    unhelped    (optional) {metric: value}: metrics of a training that were never larger than this value, which they had
                before its first step; the warnings say so too
    comparisons (optional) {text: {estimate, lower, upper, num_resamples}}, paired differences of measures
    warnings    (optional) texts: what makes the figures say less than they seem to

Schema 2 had neither det nor hardest, and stays without. Schema 1 had neither balanced_accuracy nor eer either, which
are null when it is read, and kept identification beside the conditions, {condition: {method: ...}}.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from system.files import write_text
from system.terminal import printable

SCHEMA = 3
PROTOCOL_FACTS = ("flip_fusion", "color_space", "folds", "seed", "interval_method", "fusion_weights", "fusion_source")
METHOD_NAMES = {"adaface": "embedding", "qaconv": "QAConv", "combined": "combined"}

# Entries are read back from JSON, where nothing guarantees their types.
Entry = Mapping[str, Any]


class BenchmarkResults(TypedDict):
    """Results on one benchmark: {condition: {method: entry}}."""

    checksum: str
    conditions: Mapping[str, Mapping[str, Entry]]
    hardest: NotRequired[Mapping[str, Entry]]


class Results(TypedDict):
    """The whole dictionary; its schema is at the top of the module."""

    schema: int
    synthetic: bool
    missing: Sequence[str]
    protocol: Mapping[str, object]
    benchmarks: Mapping[str, BenchmarkResults]
    searches: NotRequired[Mapping[str, Entry]]
    comparisons: NotRequired[Mapping[str, Entry]]
    unhelped: NotRequired[Mapping[str, float]]
    warnings: NotRequired[Sequence[str]]


def tell_unhelped(results: Results, unhelped: Mapping[str, float]) -> None:
    """Add to results which metrics the training has not raised, by their values before the first step."""
    if unhelped:
        results["unhelped"] = dict(unhelped)
        results["warnings"] = [*results.get("warnings", ()), *unhelped_texts(results)]


def unhelped_texts(results: Results) -> list[str]:
    """Return a sentence, without its full stop, on each metric that the training has not raised."""
    return [
        f"the training did not help: {metric} was never larger than before the first step, {_number(value, 4)}"
        for metric, value in (results.get("unhelped") or {}).items()
    ]


def write_report(folder: Path | str, results: Results) -> None:
    """Write results.json and report.txt into folder, each at once or not at all.

    Raises:
        ValueError: if the protocol lacks a fact without which the numbers could not be reproduced.
        OSError: if the folder cannot be made or written.
    """
    absent = [fact for fact in PROTOCOL_FACTS if fact not in results["protocol"]]
    if absent:
        raise ValueError(f"write_report: the protocol must state {list(PROTOCOL_FACTS)}, {absent} are missing.")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    write_text(target / "results.json", json.dumps(to_primitive(results), indent=1, allow_nan=False) + "\n")
    write_text(target / "report.txt", format_report(results))


def read_results(path: Path | str) -> Results:
    """Return what `write_report` wrote into a results.json, as schema 3 has it, whichever schema it was written in.

    Raises:
        ValueError: if it is no such file; names it.
        OSError: if it cannot be opened.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a results.json that can be read ({error})") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema not in (1, 2, SCHEMA):
        raise ValueError(f"{path}: schema {schema!r} is not known; a results.json of schema 1 to {SCHEMA} is expected")
    content["schema"] = SCHEMA
    if schema == 1:
        try:
            _upgrade(content)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not the results of schema 1 ({type(error).__name__}: {error})") from error
    return content


def _upgrade(content: dict[str, Any]) -> None:
    for benchmark in content["benchmarks"].values():
        found = benchmark.pop("identification", {})
        for condition, entries in benchmark["conditions"].items():
            for method, entry in entries.items():
                entry |= {"balanced_accuracy": None, "eer": None}
                if method in found.get(condition, {}):
                    entry["identification"] = found[condition][method]


def to_primitive(value: object) -> object:
    """Return value (mappings, sequences, paths, numpy) in JSON's types; numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): to_primitive(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return to_primitive(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [to_primitive(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def format_table(results: Results) -> str:
    """Return the table of accuracies in percent: benchmarks and their mean against conditions and methods, as text."""
    benchmarks = results["benchmarks"]
    if not benchmarks:
        return ""
    columns = _columns(results)
    rows = []
    for name, entry in benchmarks.items():
        rows.append([printable(name), *(_percent(_measure(entry, column)) for column in columns)])
        if _is_unbalanced(entry):
            rows.append(["  balanced", *(_percent(_measure(entry, column, "balanced_accuracy")) for column in columns)])
    if len(benchmarks) > 1:
        rows.append(["mean", *(_percent(_mean_accuracy(results, column)) for column in columns)])
    conditions = [
        condition if column == 0 or columns[column - 1][0] != condition else ""
        for column, (condition, _) in enumerate(columns)
    ]
    header = [["", *conditions], ["benchmark", *(METHOD_NAMES[method] for _, method in columns)]]
    head = "".join(f", {fact}" for fact in head_facts(results))
    lines = [
        f"Verification accuracy in %, mean over folds{_synthetic_mark(results)}{head}",
        "",
        *aligned(header + rows),
    ]
    lines += [line for benchmark in benchmarks.items() for line in _imbalance(*benchmark)]
    if results["missing"]:
        lines += ["", f"missing sets: {printable(', '.join(results['missing']))}"]
    lines += [line for warning in results.get("warnings", ()) for line in ("", f"warning: {printable(warning)}")]
    return "\n".join(lines) + "\n"


def head_facts(results: Results) -> list[str]:
    """Return what titles say of the margin head behind the embedding: one entry, or none where it is not known."""
    head = results["protocol"].get("head")
    return [f"margin head {printable(str(head))}"] if head else []


def format_report(results: Results) -> str:
    """Return the table followed by every other measure, the comparisons and the facts of the protocol."""
    parts = [format_table(results)] if results["benchmarks"] else []
    parts += [format_searches(name, found) for name, found in (results.get("searches") or {}).items()]
    for name, benchmark in results["benchmarks"].items():
        for condition, entries in benchmark["conditions"].items():
            title = f"{printable(name)}, {condition}{_synthetic_mark(results)}"
            parts.append(_details(title, entries))
            if found := {
                method: entry["identification"] for method, entry in entries.items() if "identification" in entry
            }:
                parts.append(_identification(title, found))
            parts += [_groups(title, method, entry["groups"]) for method, entry in entries.items() if "groups" in entry]
    if results.get("comparisons"):
        lines = [f"  {name}: {_interval(entry)}" for name, entry in results["comparisons"].items()]
        parts.append("\n".join(["Paired differences", *lines, ""]))
    facts = [f"  {name}: {printable(_fact(value))}" for name, value in results["protocol"].items()]
    whole = {**(results.get("searches") or {}), **results["benchmarks"]}
    checksums = [printable(f"  checksum of {name}: {found['checksum']}") for name, found in whole.items()]
    parts.append("\n".join(["Protocol", *facts, *checksums, ""]))
    return "\n".join(parts)


def _columns(results: Results) -> list[tuple[str, str]]:
    """Return the (condition, method) pairs that occur in any benchmark, conditions in order of appearance."""
    conditions = dict.fromkeys(c for benchmark in results["benchmarks"].values() for c in benchmark["conditions"])
    return [
        (condition, method)
        for condition in conditions
        for method in METHOD_NAMES
        if any(method in b["conditions"].get(condition, {}) for b in results["benchmarks"].values())
    ]


def _measure(benchmark: BenchmarkResults, column: tuple[str, str], measure: str = "accuracy") -> float | None:
    condition, method = column
    entry = benchmark["conditions"].get(condition, {}).get(method)
    return None if entry is None else entry[measure]


def _mean_accuracy(results: Results, column: tuple[str, str]) -> float | None:
    """Return the mean over all sets; None where a set lacks it, for a mean over fewer sets would not compare."""
    accuracies = [_measure(benchmark, column) for benchmark in results["benchmarks"].values()]
    present = [accuracy for accuracy in accuracies if accuracy is not None]
    return sum(present) / len(present) if len(present) == len(accuracies) else None


def _is_unbalanced(benchmark: BenchmarkResults) -> bool:
    """Return whether the mix of pairs decides much of the accuracy, whatever the method."""
    entry = next(iter(next(iter(benchmark["conditions"].values())).values()))
    return entry["num_genuine"] != entry["num_impostor"]


def _imbalance(name: str, benchmark: BenchmarkResults) -> list[str]:
    if not _is_unbalanced(benchmark):
        return []
    entry = next(iter(next(iter(benchmark["conditions"].values())).values()))
    note = "Balanced accuracy, AUC, EER and TAR@FAR do not depend on the mix."
    return ["", f"{printable(name)}: {_pairs(entry)}. {note}"]


def _pairs(entry: Entry) -> str:
    answer = "same" if entry["num_genuine"] > entry["num_impostor"] else "different"
    return (
        f"{entry['num_genuine']:,} genuine and {entry['num_impostor']:,} impostor pairs;"
        f' always answering "{answer}" already gets {_percent(entry["constant_accuracy"])} %'
    )


def _details(title: str, entries: Mapping[str, Entry]) -> str:
    first = next(iter(entries.values()))
    fars = list(first["tar_at_far"])
    rows = [["method", "accuracy", "std", "balanced", "AUC", "EER", "Cllr", *(f"TAR@FAR {far}" for far in fars)]]
    for method, entry in entries.items():
        rates = [entry["tar_at_far"][far] for far in fars]
        tars = [_percent(rate["tar"], rate.get("interval")) for rate in rates]
        accuracy = _percent(entry["accuracy"], entry.get("accuracy_interval"))
        area = _number(entry["auc"], 4) if entry["auc_interval"] is None else _interval(entry["auc_interval"])
        shares = [_percent(entry[measure]) for measure in ("std", "balanced_accuracy")]
        costs = [_percent(entry["eer"]), _number(entry.get("cllr"), 3)]
        rows.append([METHOD_NAMES[method], accuracy, *shares, area, *costs, *tars])
        if drawn := entry.get("occlusion_draws"):
            rows.append(_spread(drawn, fars))
    notes = [first["tar_at_far"][far]["note"] for far in fars if first["tar_at_far"][far]["note"]]
    return "\n".join([f"{title}: {_pairs(first)}", *(f"  {line}" for line in [*aligned(rows), *notes]), ""])


def _spread(drawn: Entry, fars: Sequence[str]) -> list[str]:
    """Return the row of the sample deviations between draws of occluders, below the means over these draws."""
    std = drawn["std"]
    accuracy, balanced, eer = (_percent(std[name]) for name in ("accuracy", "balanced_accuracy", "eer"))
    tars = [_percent(std["tar_at_far"][far]) for far in fars]
    return [f"  std of {drawn['num']} draws", accuracy, "", balanced, _number(std["auc"], 4), eer, "", *tars]


def _identification(title: str, entries: Mapping[str, Entry]) -> str:
    first = next(iter(entries.values()))
    ranks = list(first["rank_accuracy"])
    rows = [["method", *(f"rank {rank}" for rank in ranks)]]
    for method, entry in entries.items():
        rows.append([METHOD_NAMES[method], *(_percent(entry["rank_accuracy"][rank]) for rank in ranks)])
    facts = (
        f"{first['num_probes']:,} images searched among all others,"
        f" {first['num_strangers']:,} more that are their identity's only one"
    )
    if "probes" in first:
        facts += f"; probes are {first['probes']}, the others {first['gallery']}"
    return "\n".join([f"{title}, identification: {facts}", *(f"  {line}" for line in aligned(rows)), ""])


def format_searches(name: str, found: Entry) -> str:
    """Return the searches of a set as text: rates at ranks, then those of the open set."""
    entries = found["entries"]
    ranks = list(next(iter(entries.values()))["cmc"])
    rows = [["search", "probes", "strangers", "gallery", *(f"rank {rank} %" for rank in ranks)]]
    for title, entry in entries.items():
        counts = [f"{entry[key]:,}" for key in ("num_probes", "num_strangers", "num_gallery")]
        rates = [_percent(entry["cmc"][rank]["estimate"], entry["cmc"][rank]) for rank in ranks]
        rows.append([printable(title), *counts, *rates])
    others = "one entry a person" if found["ranks_count"] == "people" else "every entry by itself"
    head = f"{printable(name)}: searches; of equal scores the other person comes first; ranks count {others}"
    return "\n".join([head, "", *aligned(rows), *_open_sets(entries), ""])


def _open_sets(entries: Mapping[str, Entry]) -> list[str]:
    lines = []
    for title, entry in entries.items():
        for fpir, rates in entry.get("tpir_at_fpir", {}).items():
            fnirs = [
                f"FNIR {_number(100 * (1 - rates[kind]), 2)} % {kind.replace('_', ' ')}"
                for kind in ("rank_1", "any_rank")
                if rates[kind] is not None and math.isfinite(rates[kind])
            ]
            told = ", ".join(fnirs) or f"not resolved by {entry['num_strangers']} strangers"
            lines.append(f"{printable(title)}, FPIR {fpir}: {told}")
    return lines


def _groups(title: str, method: str, groups: Mapping[str, Mapping[str, Entry]]) -> str:
    lines = [
        f"{title}, {METHOD_NAMES[method]}, by group, at the thresholds of the whole set (exact: as if independent)"
    ]
    for by, entries in groups.items():
        rows = [[by, "genuine", "impostor", "people", "accuracy", "TAR", "exact", "FAR", "exact"]]
        for name, entry in entries.items():
            people = "-" if entry["num_people"] is None else f"{entry['num_people']:,}"
            counts = [f"{entry[kind]:,}" for kind in ("num_genuine", "num_impostor")]
            rates = [_interval(entry["accuracy"])]
            for rate in ("tar", "far"):
                rates += [_interval(entry[rate]), f"[{', '.join(_number(end, 4) for end in entry[f'{rate}_exact'])}]"]
            rows.append([printable(name), *counts, people, *rates])
        lines += [f"  {line}" for line in aligned(rows)]
    return "\n".join([*lines, ""])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines whose columns are padded to equal width, the first to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines


def _percent(value: float | None, interval: Entry | None = None) -> str:
    text = _number(None if value is None else 100 * value, 2)
    return text if interval is None else f"{text} [{_percent(interval['lower'])}, {_percent(interval['upper'])}]"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _interval(interval: Entry) -> str:
    estimate, lower, upper = (_number(interval[key], 4) for key in ("estimate", "lower", "upper"))
    return f"{estimate} [{lower}, {upper}]"


def _fact(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return str(value)


def _synthetic_mark(results: Results) -> str:
    return ", synthetic faces" if results["synthetic"] else ""
