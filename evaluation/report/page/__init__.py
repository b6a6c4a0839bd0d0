"""The report as a page: HTML, SVG, a style sheet and a small script, all within one file."""

from evaluation.report.page.document import PAGE, build_page, write_page

__all__ = ["PAGE", "build_page", "write_page"]
