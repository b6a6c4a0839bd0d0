"""Several runs on one page: their figures side by side, their curves in one chart, and what was not the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from evaluation.report.page import facts, searches
from evaluation.report.page.answer import SPREAD_NOTE, accuracy, columns, headline_column, method_name, place_of
from evaluation.report.page.curves import THINNING
from evaluation.report.page.figures import figure, look, with_interval
from evaluation.report.results import Results, unhelped_texts
from system.page.charts import Frame, joined_figures, legend, linear_axis, log_axis
from system.page.courses import CHARTS, MAX_LINES, Line, course
from system.page.document import document
from system.page.markup import Child, Markup, element, table

# Facts that differ by nature from run to run, and say nothing about whether figures may be compared.
_OWN_FACTS = ("run", "step", "model", "pooled_statistics", "unreadable", "fusion_source")


class Run(NamedTuple):
    """A run to compare: its name, its results, and metrics.csv as `read_metrics` reads it."""

    name: str
    results: Results
    metrics: Mapping[str, Line]


def build_comparison(runs: Sequence[Run], anonymous: bool = False) -> str:
    """Return a page that compares runs.

    Args:
        runs: at least one, with different names, in the order of the page.
        anonymous: say of facts that may hold a path or a name only that they differ.
    """
    sets = list(dict.fromkeys(name for run in runs for name in run.results["benchmarks"]))
    searched = list(dict.fromkeys(name for run in runs for name in run.results.get("searches") or {}))
    warned = [_warnings(runs, sets, "benchmarks"), _warnings(runs, searched, "searches")]
    texts = [f"{run.name}: {text}." for run in runs for text in unhelped_texts(run.results)]
    warned.append(_list(texts))
    sections: dict[str, Child] = {"Answer": [*warned, *(_accuracies(runs, name) for name in sets)]}
    sections |= {f"Set {name}": [element("h3", "ROC"), _roc(runs, name), _rates(runs, name)] for name in sets}
    named = [(run.name, run.results) for run in runs]
    sections |= {f"Searches of {name}": searches.compared(named, name) for name in searched}
    sections["Training"] = element("div", courses, class_="figures") if (courses := _courses(runs)) else None
    sections["Different facts"] = _different_facts(runs, anonymous)
    about = [f"{len(runs)} runs", *["synthetic faces"] * any(run.results["synthetic"] for run in runs)]
    return document("Comparison of runs", about, sections)


def _accuracies(runs: Sequence[Run], name: str) -> Markup:
    chosen = list(dict.fromkeys(column for run in runs for column in columns(run.results)))
    rows = [[run.name, *(accuracy(run.results, name, *column) for column in chosen)] for run in runs]
    head = ["run", *(f"{method_name(method)}, {condition}" for condition, method in chosen)]
    return table(head, rows, f"{name}: accuracy in percent, mean over the folds, with 95 % intervals. {SPREAD_NOTE}")


def _judged_by(runs: Sequence[Run]) -> tuple[str, str]:
    """Return the (condition, method) that speaks for the first run that compared pairs."""
    return headline_column(next(run.results for run in runs if run.results["benchmarks"]))


def _rates(runs: Sequence[Run], name: str) -> Markup:
    column = _judged_by(runs)
    at = place_of(name, *column)
    limits = (look(run.results, (*at, "tar_at_far")) or {} for run in runs)
    fars = list(dict.fromkeys(far for found in limits for far in found))
    rows = [
        [
            run.name,
            figure(run.results, (*at, "eer"), "percent"),
            with_interval(run.results, (*at, "auc"), [(*at, "auc_interval")], "share"),
            *(figure(run.results, (*at, "tar_at_far", far, "tar"), "percent") for far in fars),
        ]
        for run in runs
    ]
    head = ["run", "EER", "AUC", *(f"TAR at FAR {far}" for far in fars)]
    return table(head, rows, f"{method_name(column[1])}, {column[0]}: rates in percent, AUC as a share.")


def _roc(runs: Sequence[Run], name: str) -> Markup | None:
    """Return the curves of the score that the first run is judged by; those of as many runs as there are styles."""
    condition, method = _judged_by(runs)
    found = [(run.name, look(run.results, (*place_of(name, condition, method), "roc"))) for run in runs]
    drawn = [(title, roc) for title, roc in found if roc][:MAX_LINES]
    if not drawn:
        return None
    smallest = min((far for _, roc in drawn for far in roc["far"] if far > 0), default=1e-3)
    frame = Frame(log_axis("false-accept rate", smallest), linear_axis("true-accept rate", 0, 1))
    lines = [frame.line(roc["far"], roc["tar"], f"s{number}", title) for number, (title, roc) in enumerate(drawn)]
    caption = element("figcaption", f"{method_name(method)}, {condition}")
    names = legend((f"s{number}", title) for number, (title, _) in enumerate(drawn))
    picture = element("figure", caption, frame.svg(f"ROC of {name}", lines))
    return joined_figures([picture], names, [THINNING, _left_out(len(runs))])


def _courses(runs: Sequence[Run]) -> list[Markup]:
    """Return a chart of each metric that a chart of a single run shows, a line a run."""
    known = dict.fromkeys(name for run in runs for name in run.metrics)
    chosen = ((chart, name) for chart in CHARTS for name in chart.names(known))
    return [
        course(
            chart._replace(title=name),
            {run.name: run.metrics[name] for run in runs[:MAX_LINES] if name in run.metrics},
        )
        for chart, name in chosen
    ]


def _left_out(number: int) -> str:
    return "" if number <= MAX_LINES else f" Of {number} runs the first {MAX_LINES} are drawn."


def _warnings(runs: Sequence[Run], sets: Sequence[str], kind: str) -> Markup | None:
    """Return why figures of a name may not be comparable, of benchmarks or of searches."""
    found = []
    for name in sets:
        benchmarks = [(look(run.results, (kind,)) or {}).get(name) for run in runs]
        if None in benchmarks:
            found.append(f"{name} was not evaluated in every run.")
        if len({each["checksum"] for each in benchmarks if each is not None}) > 1:
            found.append(
                f"{name} is not the same set in every run: the checksums differ, so do not compare its figures."
            )
    return _list(found)


def _list(texts: Sequence[str]) -> Markup | None:
    return element("ul", [element("li", text) for text in texts], class_="answer") if texts else None


def _different_facts(runs: Sequence[Run], anonymous: bool) -> Markup:
    names = dict.fromkeys(name for run in runs for name in run.results["protocol"] if name not in _OWN_FACTS)
    rows = []
    for name in names:
        values = [run.results["protocol"].get(name) for run in runs]
        if any(value != values[0] for value in values):
            hidden = anonymous and name not in facts.ANONYMOUS_FACTS
            rows.append([name, *(facts.LEFT_OUT if hidden else facts.told(value) for value in values)])
    if not rows:
        return element("p", "All facts of the protocol are the same.")
    return table(["fact", *(run.name for run in runs)], rows, "Facts of the protocol that differ.", class_="facts")
