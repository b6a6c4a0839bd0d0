"""The report as one page that needs nothing else: no network, no library, and without script all but the sliders."""

from __future__ import annotations

from pathlib import Path

from evaluation.report.page import answer, curves, facts, groups, pairs, searches
from evaluation.report.results import Results, head_facts
from system.files import write_text
from system.page.charts import BOTTOM, LEFT, RIGHT, TOP
from system.page.courses import charts_of, read_metrics
from system.page.document import Script, document
from system.page.markup import Child, element

PAGE = "index.html"
MAX_SCRIPT = 15_000  # bytes
_SCRIPT = Path(__file__).parent / "page.js"


def write_page(folder: Path, results: Results, run: Path | None = None, anonymous: bool = False) -> Path:
    """Write index.html into the folder of a report and return its path; an old page is replaced as a whole.

    Args:
        folder: where results.json lies, and `pairs/` with the pictures of the hardest pairs.
        results: as `read_results` returns them, or as they were built.
        run: folder of the run that the report belongs to: metrics.csv and samples.png are shown too.
        anonymous: show no picture, no name of a person and no path; names of sets stay.
    Raises:
        ValueError: if metrics.csv is none, or the results are of nothing.
        OSError: if a file cannot be read or the page cannot be written.
    """
    path = folder / PAGE
    write_text(path, build_page(folder, results, run, anonymous))
    return path


def build_page(folder: Path, results: Results, run: Path | None = None, anonymous: bool = False) -> str:
    """Return the page of `write_page`."""
    if not results["benchmarks"] and not results.get("searches"):
        raise ValueError("holds neither pairs nor searches")
    first: list[Child] = [answer.headline(results), answer.accuracy_table(results)] if results["benchmarks"] else []
    first += [searches.headline(results)] if results.get("searches") else []
    sections: dict[str, Child] = {"Answer": first}
    sections |= {
        f"Set {name}": _set(results, name, number, folder, anonymous)
        for number, name in enumerate(results["benchmarks"])
    }
    sections |= {f"Searches of {name}": searches.section(results, name) for name in results.get("searches") or {}}
    sections["Paired differences"] = answer.comparisons_table(results)
    sections["Not resolved"] = facts.unresolved(results)
    sections["Protocol"] = facts.protocol(results, anonymous)
    if run is not None:
        sections["Training"] = charts_of(read_metrics(run / "metrics.csv"))
        sections["Samples"] = None if anonymous else pairs.sample_sheet(run / "samples.png")
    run_name = results["protocol"].get("run")
    title = "Evaluation" if run_name is None or anonymous else f"Evaluation of {run_name}"
    about = ["synthetic faces"] * results["synthetic"] + head_facts(results)
    data = {"box": [LEFT, TOP, RIGHT, BOTTOM], "sliders": curves.slider_data(results)}
    return document(title, about, sections, Script(_SCRIPT.read_text(encoding="utf-8"), data))


def _set(results: Results, name: str, number: int, folder: Path, anonymous: bool) -> list[Child]:
    hardest = pairs.hardest(results, name, folder, anonymous)
    return [
        answer.measures_table(results, name),
        answer.identification_table(results, name),
        element("h3", "ROC and DET"),
        curves.curves(results, name, number),
        element("h3", "Scores and thresholds"),
        curves.histograms(results, name, number),
        curves.first_draw_note(results, name),
        groups.by_groups(results, name),
        [element("h3", "Hardest pairs"), hardest, element("p", pairs.NOTE, class_="note")] if hardest else None,
    ]
