"""Searches of probes in a gallery: rates at ranks, and with strangers those of the open set, as tables and curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evaluation.report.page.figures import Place, figure, look, with_interval
from evaluation.report.results import Entry, Results
from system.page.charts import Frame, joined_figures, legend, linear_axis, log_axis
from system.page.markup import Child, Markup, element, table

_STYLES = 8  # of lines: page.css has as many
_CMC_NOTE = "CMC: share of the probes whose person is within a rank."
_OPEN_NOTE = (
    " Open set: FNIR, the right person is not the first or not named, against FPIR, a stranger is taken for somebody;"
    " exact points of the whole curve, joined by straight lines. A rate of 0 has no place on a log axis."
)
_KINDS = {"rank_1": "first and named", "any_rank": "named at any rank"}


def entries(results: Results, name: str) -> list[tuple[str, Place, Entry]]:
    """Return (title, place in results.json, entry) of the searches of a set; none where nobody searched."""
    found = (results.get("searches") or {}).get(name) or {"entries": {}}
    return [(title, ("searches", name, "entries", title), entry) for title, entry in found["entries"].items()]


def headline(results: Results) -> Markup:
    """Return the answer in a sentence: how often the right person is first, search by search."""
    said: list[Child] = []
    for name in results.get("searches") or {}:
        for title, place, _ in entries(results, name):
            said.append([", " if said else "", figure(results, (*place, "cmc", "1", "estimate"), "percent"),
                         f" % ({name}, {title})"])  # fmt: skip
    return element("p", "The right person comes first for ", said, ".", class_="answer")


def section(results: Results, name: str) -> list[Child]:
    """Return the part of the page on the searches of a set."""
    found = entries(results, name)
    if not found:
        return []
    names = legend((f"s{number % _STYLES}", title) for number, (title, _, _) in enumerate(found))
    drawn = [element("figure", element("figcaption", "CMC"), _cmc(name, found))]
    if opened := _open_set(name, found):
        drawn.append(element("figure", element("figcaption", "Open set"), opened))
    note = [_CMC_NOTE, _OPEN_NOTE if opened else None]
    return [
        _closed_table(results, name, found),
        _open_table(results, found),
        element("h3", "Curves"),
        joined_figures(drawn, names, note),
    ]


def compared(runs: Sequence[tuple[str, Results]], name: str) -> list[Markup]:
    """Return the searches of a set that several runs made, a table each, of rates at ranks.

    Args:
        runs: (name, results).
        name: of the set.
    """
    titles = dict.fromkeys(title for _, results in runs for title, *_ in entries(results, name))
    tables = []
    for title in titles:
        found = [(run, results, *one[1:]) for run, results in runs for one in entries(results, name) if one[0] == title]
        ranks = list(found[0][3]["cmc"])
        rows = [[run, *(_share(results, (*place, "cmc", rank)) for rank in ranks)] for run, results, place, _ in found]
        head = ["run", *(f"within rank {rank}" for rank in ranks)]
        tables.append(table(head, rows, f"{title}: percent of the probes, with 95 % intervals."))
    return tables


def _closed_table(results: Results, name: str, found: list[tuple[str, Place, Entry]]) -> Markup:
    ranks = list(found[0][2]["cmc"])
    rows = [
        [
            title,
            entry["probes"],
            entry["gallery"],
            *(_share(results, (*place, "cmc", rank)) for rank in ranks),
            *(figure(results, (*place, count), "count") for count in ("num_probes", "num_strangers", "num_gallery")),
        ]
        for title, place, entry in found
    ]
    counted = "people" if look(results, ("searches", name, "ranks_count")) == "people" else "images"
    head = ["search", "probes are", "gallery", *(f"within rank {rank}" for rank in ranks),
            "probes", "strangers", "entries"]  # fmt: skip
    caption = (
        "Percent of the probes whose person the gallery holds, with 95 % intervals over these people; of equal scores"
        f" the other person comes first. Ranks count {counted}."
    )
    return table(head, rows, caption)


def _open_table(results: Results, found: list[tuple[str, Place, Entry]]) -> Markup | None:
    rows: list[list[Child]] = []
    for title, place, entry in found:
        for fpir in entry.get("tpir_at_fpir") or {}:
            at = (*place, "tpir_at_fpir", fpir)
            rates = [with_interval(results, (*at, kind), [(*at, f"{kind}_interval")], "percent") for kind in _KINDS]
            rows.append([title, fpir, *rates, figure(results, (*at, "threshold"), "score")])
    if not rows:
        return None
    head = ["search", "FPIR", *(f"TPIR, {text}" for text in _KINDS.values()), "threshold"]
    caption = (
        "Open set, in percent: how often the right person is named at a threshold that takes no more than this share of"
        " the strangers for somebody. Intervals are over the people of the probes at that threshold."
    )
    return table(head, rows, caption)


def _share(results: Results, place: Place) -> Child:
    return with_interval(results, (*place, "estimate"), [place], "percent")


def _cmc(name: str, found: list[tuple[str, Place, Entry]]) -> Markup:
    ranks = [rank for _, _, entry in found for rank in entry["cmc_curve"]["rank"]]
    lowest = min(share for _, _, entry in found for share in entry["cmc_curve"]["share"])
    frame = Frame(linear_axis("rank", 1, max(ranks)), linear_axis("share within the rank", 0.9 * lowest, 1))
    lines = [
        frame.line(entry["cmc_curve"]["rank"], entry["cmc_curve"]["share"], f"s{number % _STYLES}", title)
        for number, (title, _, entry) in enumerate(found)
    ]
    return frame.svg(f"CMC of {name}", lines)


def _open_set(name: str, found: list[tuple[str, Place, Entry]]) -> Markup | None:
    numbered = enumerate(found)
    drawn = [(number, title, entry["open_set"]) for number, (title, _, entry) in numbered if "open_set" in entry]
    if not drawn:
        return None
    ends = [min((r for _, _, curve in drawn for r in curve[kind] if r > 0), default=1e-3) for kind in ("fpir", "fnir")]
    frame = Frame(log_axis("false-positive identification rate", ends[0]),
                  log_axis("false-negative identification rate", ends[1]))  # fmt: skip
    lines = [frame.line(curve["fpir"], curve["fnir"], f"s{number % _STYLES}", title) for number, title, curve in drawn]
    return frame.svg(f"Open set of {name}", lines)


def limits(results: Results) -> Iterator[str]:
    """Yield what the searches cannot tell."""
    opened = False
    for name in results.get("searches") or {}:
        for title, _, entry in entries(results, name):
            opened = opened or bool(entry.get("tpir_at_fpir"))
            if entry["num_people"] < 2:
                yield f"{name}, {title}: the probes are of one person; rates have no interval."
            if not entry.get("tpir_at_fpir"):
                yield f"{name}, {title}: no probe is a stranger to the gallery; nothing is said of the open set."
            for fpir, rates in (entry.get("tpir_at_fpir") or {}).items():
                if rates["any_rank"] is None:
                    strangers = f"{entry['num_strangers']:,} strangers"
                    yield f"{name}, {title}: FPIR {fpir} needs more than {strangers}."
    if opened:
        yield "The intervals of the open set take the threshold for given: other strangers would move it."
