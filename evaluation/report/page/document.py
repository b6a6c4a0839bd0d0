"""The report as one page that needs nothing else: no network, no library, and without script all but the sliders."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluation.report.page import answer, curves, facts, groups, pairs, searches, training
from evaluation.report.page.charts import BOTTOM, LEFT, RIGHT, TOP
from evaluation.report.page.markup import Child, Markup, element, script_json
from evaluation.report.results import Results, head_facts
from system.files import write_text

PAGE = "index.html"
MAX_SCRIPT = 15_000  # bytes
_HERE = Path(__file__).parent


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
        sections["Training"] = training.training(training.read_metrics(run / "metrics.csv"))
        sections["Samples"] = None if anonymous else training.sample_sheet(run / "samples.png")
    run_name = results["protocol"].get("run")
    title = "Evaluation" if run_name is None or anonymous else f"Evaluation of {run_name}"
    about = ["synthetic faces"] * results["synthetic"] + head_facts(results)
    data = {"box": [LEFT, TOP, RIGHT, BOTTOM], "sliders": curves.slider_data(results)}
    return document(title, about, sections, data)


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


def document(title: str, about: Sequence[str], sections: Mapping[str, Child], data: Mapping[str, object]) -> str:
    """Return a page of sections by their headings; those without content are left out.

    The policy lets nothing in but pictures within the page and this very style and script, whatever a defect lets out.
    """
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}';"
        " base-uri 'none'; form-action 'none'"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(style)),
    )
    shown = {heading: content for heading, content in sections.items() if content}
    links = [element("li", element("a", heading, href=f"#part-{place}")) for place, heading in enumerate(shown)]
    body = element(
        "body",
        element("a", "Skip to the answer", href="#part-0", class_="skip"),
        element("header", element("h1", title), element("p", ", ".join(about)) if about else None),
        element("nav", element("ul", links), aria_label="Contents"),
        element("main", [_section(*item, place) for place, item in enumerate(shown.items())]),
        element("script", script_json(data), type="application/json", id="data"),
        element("script", Markup(script)),
    )
    return "<!DOCTYPE html>\n" + element("html", head, body, lang="en") + "\n"


def _section(heading: str, content: Child, place: int) -> Markup:
    return element("section", element("h2", heading, id=f"heading-{place}"), content, id=f"part-{place}", tabindex=-1,
                   aria_labelledby=f"heading-{place}")  # fmt: skip


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
