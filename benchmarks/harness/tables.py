"""Tables of figures: as lines of text while they are measured, and as Markdown from their JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

Value = str | float | list[float] | None
Row = Mapping[str, Value]  # values by the columns' keys; further ones, single runs for instance, go to the JSON only

_LEAST_WIDTH = 8


class Column(NamedTuple):
    """A column; the order of a table's columns is: what, ratios, goals, absolute figures."""

    heading: str
    key: str  # of the row's value; a missing or null value is shown as a dash
    form: str = "{}"  # str.format template
    width: int = _LEAST_WIDTH  # characters in the text, at least the heading's; wide columns are left-justified


class Table(NamedTuple):
    """Rows of one kind."""

    name: str  # of its place in the documentation
    columns: Sequence[Column]
    runs: str = "repeats"  # option that holds the number of runs behind a median


def text_line(columns: Sequence[Column], cells: Sequence[str]) -> str:
    """Return cells, one per column, aligned for the terminal."""
    return "  ".join(map(_justify, columns, cells)).rstrip()


def _justify(column: Column, cell: str) -> str:
    width = max(column.width, len(column.heading))
    return cell.ljust(width) if column.width > _LEAST_WIDTH else cell.rjust(width)


def headings(columns: Sequence[Column]) -> list[str]:
    """Return the cells of the first line."""
    return [column.heading for column in columns]


def row_cells(columns: Sequence[Column], row: Row) -> list[str]:
    """Return the cells of a row."""
    values = (row.get(column.key) for column in columns)
    return ["-" if value is None else column.form.format(value) for column, value in zip(columns, values, strict=True)]


def to_markdown(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """Return the whole table as Markdown, figures to the right."""
    rule = ["---" if column.width > _LEAST_WIDTH else "---:" for column in columns]
    lines = [headings(columns), rule, *(row_cells(columns, row) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
