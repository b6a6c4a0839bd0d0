"""The result of an evaluation: its schema, as text, and in pictures."""

from evaluation.report.results import SCHEMA, Results, format_table, read_results, write_report

__all__ = ["SCHEMA", "Results", "format_table", "read_results", "write_report"]
