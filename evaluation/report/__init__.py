"""The result of an evaluation: its schema, as text, as a page and in pictures."""

from evaluation.report.drawing import draw_report
from evaluation.report.results import (
    SCHEMA,
    Results,
    format_report,
    format_table,
    read_results,
    tell_unhelped,
    write_report,
)

__all__ = [
    "SCHEMA", "Results", "draw_report", "format_report", "format_table", "read_results", "tell_unhelped",
    "write_report",
]  # fmt: skip
