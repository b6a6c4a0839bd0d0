"""Named figures of a calculation: given, measured, or computed from those before, each with how it came about."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness.tables import Column, to_markdown

COLUMNS = (
    Column("what", "what", width=44),
    Column("figure", "figure"),
    Column("", "kind", width=9),
    Column("arithmetic or source", "how", width=40),
)
_OPERATORS: Mapping[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_NAME = re.compile(r"\b[a-z]\w*\b")


class Line(NamedTuple):
    """A figure."""

    section: str
    what: str
    value: float
    form: str  # str.format template of the value, with its unit
    kind: str  # assumed, measured or computed
    how: str  # the source, or the arithmetic with its numbers


class Figures:
    """Lines by key, in the order of a calculation, and the tables of their sections."""

    def __init__(self) -> None:
        self.lines: dict[str, Line] = {}
        self.section = ""

    def __getitem__(self, key: str) -> float:
        return self.lines[key].value

    def assume(self, key: str, what: str, value: float, form: str, source: str) -> None:
        """Add a figure from elsewhere, or one that is ours to choose."""
        self._add(key, Line(self.section, what, value, form, "assumed", source))

    def measure(self, key: str, what: str, value: float, form: str, source: str) -> None:
        """Add a figure that was measured."""
        self._add(key, Line(self.section, what, value, form, "measured", source))

    def derive(self, key: str, what: str, value: float, form: str, source: str) -> None:
        """Add a figure that a function of the project computes."""
        self._add(key, Line(self.section, what, value, form, "computed", source))

    def compute(self, key: str, what: str, form: str, arithmetic: str) -> None:
        """Add the value of an expression of earlier keys, numbers, + - * / ** and sqrt.

        Raises:
            ValueError: if the expression holds anything else.
        """
        value = evaluate(arithmetic, {name: line.value for name, line in self.lines.items()})
        shown = _NAME.sub(lambda match: self._shown(match[0]), arithmetic).replace("**", "^").replace("*", "×")
        self._add(key, Line(self.section, what, value, form, "computed", shown))

    def table(self, section: str) -> str:
        """Return a section as Markdown."""
        chosen = [line for line in self.lines.values() if line.section == section]
        rows = [{**line._asdict(), "figure": line.form.format(line.value), "value": None} for line in chosen]
        return to_markdown(COLUMNS, rows)

    def _add(self, key: str, line: Line) -> None:
        if key in self.lines:
            raise ValueError(f"Figures: {key} is there already")
        self.lines[key] = line

    def _shown(self, name: str) -> str:
        if name not in self.lines:
            return name  # a function
        value = self.lines[name].value
        return f"{value:,.0f}" if value == round(value) and abs(value) < 1e12 else f"{value:,.6g}"


def evaluate(arithmetic: str, values: Mapping[str, float]) -> float:
    """Return the value of an expression.

    Raises:
        ValueError: if it holds an unknown name, or anything but numbers, + - * / ** and sqrt.
    """
    return _value(ast.parse(arithmetic, mode="eval").body, values)


def _value(node: ast.expr, values: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name) if name in values:
            return values[name]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left, values), _value(right, values))
        case ast.Call(func=ast.Name(id="sqrt"), args=[argument], keywords=[]):
            return math.sqrt(_value(argument, values))
    raise ValueError(f"Figures: cannot evaluate {ast.unparse(node)}")


def read_table(page: Path, name: str) -> list[dict[str, str]]:
    """Return the rows of a table between its marks on a page, cells by heading.

    Raises:
        ValueError: if the page has no such table.
    """
    found = re.search(rf"<!-- {name} -->\n(.*?)\n\n", page.read_text(encoding="utf-8"), re.DOTALL)
    if found is None:
        raise ValueError(f"{page}: no table {name}")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def read_number(page: Path, table: str, column: str, **wanted: str) -> float:
    """Return the number in a column of the one row whose cells, by heading, are those wanted.

    Raises:
        ValueError: if no row or several have them.
    """
    rows = [row for row in read_table(page, table) if wanted.items() <= row.items()]
    if len(rows) != 1:
        raise ValueError(f"{page}: expected one row of {table} with {wanted}, got {len(rows)}")
    return float(rows[0][column].replace(",", "").rstrip("x%"))
