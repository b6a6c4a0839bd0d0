"""The report as a page: HTML, SVG, a style sheet and a small script, all within one file."""

from evaluation.report.page.comparison import Run, build_comparison
from evaluation.report.page.document import PAGE, build_page, write_page
from system.page.courses import read_metrics

__all__ = ["PAGE", "Run", "build_comparison", "build_page", "read_metrics", "write_page"]
