"""The command line that all benchmarks share: options, a table that grows as it is measured, one JSON at the end."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

import runs
from benchmarks import measure
from benchmarks.tables import Row, Table, headings, row_cells, text_line

RESULTS = Path("experiments/benchmarks")


def _add_nothing(parser: argparse.ArgumentParser) -> None:
    """Leave the parser as it is."""


class Benchmark(NamedTuple):
    """A program of this folder."""

    name: str  # of its module and its JSON
    description: str
    tables: tuple[Table, ...]
    measure: Callable[[argparse.Namespace], Iterator[tuple[Table, Row]]]  # yields the rows in the tables' order
    repeats: int = 5
    add_arguments: Callable[[argparse.ArgumentParser], None] = _add_nothing


def add_common_arguments(parser: argparse.ArgumentParser, repeats: int | None = None) -> None:
    """Add the options that every benchmark has."""
    parser.add_argument("--repeats", type=int, default=repeats, help="runs, of which the median counts (%(default)s)")
    parser.add_argument("--threads", type=int, help="of torch (its own choice)")
    parser.add_argument("--scale", type=float, default=1.0, help="factor of all sizes: a small one tests the program")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON files (%(default)s)")


def scaled(number: int, scale: float, least: int) -> int:
    """Return a size under `--scale`."""
    return max(least, round(number * scale))


def main(benchmark: Benchmark) -> None:
    """Run as `python -m benchmarks.<name>`."""
    runs.start_log(is_main_process=False)  # warnings only
    run(benchmark)


def run(benchmark: Benchmark, argv: Sequence[str] | None = None) -> Path:
    """Measure, print each row when it is there, and return the JSON written."""
    parser = argparse.ArgumentParser(
        description=benchmark.description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_arguments(parser, benchmark.repeats)
    benchmark.add_arguments(parser)
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    rows: dict[str, list[Row]] = {table.name: [] for table in benchmark.tables}
    for table, row in benchmark.measure(args):
        if not rows[table.name]:
            print(f"\n{text_line(table.columns, headings(table.columns))}")
        print(text_line(table.columns, row_cells(table.columns, row)), flush=True)
        rows[table.name].append(row)
    return _write(benchmark, args, rows)


def _write(benchmark: Benchmark, args: argparse.Namespace, rows: dict[str, list[Row]]) -> Path:
    path = args.output / f"{benchmark.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {name: value for name, value in vars(args).items() if name != "output"}
    tables = [
        {
            "name": table.name,
            "runs": options[table.runs],
            "columns": [column._asdict() for column in table.columns],
            "rows": rows[table.name],
        }
        for table in benchmark.tables
    ]
    runs.write_json(path, {"machine": measure.machine(), "options": options, "tables": tables})
    return path
