"""All pictures of a report: the page, and plots as files of their own."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from evaluation.report.page import write_page
from evaluation.report.results import Results, to_primitive


def draw_report(folder: Path, results: Results, run: Path | None = None, anonymous: bool = False) -> None:
    """Write index.html and the plots into the folder of a report.

    Args:
        folder, results, run, anonymous: as for `write_page`.
    Raises:
        ValueError, OSError: as `write_page`.
    """
    # As results.json has them: a page that is drawn from the file again shows the same.
    results = cast(Results, to_primitive(results))
    write_page(folder, results, run, anonymous)
    from evaluation.report.plots import plot_report  # matplotlib is not for a run that is stopped or refused

    plot_report(folder, results)
