"""The command line that all benchmarks share: options, a table that grows as it is measured, one JSON at the end."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness.tables import Row, Table, headings, row_cells, text_line
from options.command import FlagParser, launch

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
    parser.add_argument("--repeats", type=_count, default=repeats, help="runs; their median counts (%(default)s)")
    parser.add_argument("--threads", type=_count, help="of torch (its own choice)")
    parser.add_argument("--scale", type=_scale, default=1.0, help="factor of all sizes: a small one tests the program")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON files (%(default)s)")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) == int(text[:10]):
        raise argparse.ArgumentTypeError("expected a whole number from 1 to 999999999")
    return int(text)


def _scale(text: str) -> float:
    try:
        scale = float(text)
    except ValueError:
        scale = 0.0
    if not 0 < scale <= 1000:
        raise argparse.ArgumentTypeError("expected a number above 0, 1000 at most")
    return scale


def scaled(number: int, scale: float, least: int) -> int:
    """Return a size under `--scale`."""
    return max(least, round(number * scale))


def main(benchmark: Benchmark) -> None:
    """Run as `python -m benchmarks.<name>`."""

    def program() -> int:
        args = _read(benchmark, None)
        from engine import runs

        runs.start_log(is_main_process=False)  # warnings only
        _run(benchmark, args)
        return 0

    launch(f"python -m benchmarks.{benchmark.name}", program)


def run(benchmark: Benchmark, argv: Sequence[str] | None = None) -> Path:
    """Measure, print each row when it is there, and return the JSON written."""
    return _run(benchmark, _read(benchmark, argv))


def _read(benchmark: Benchmark, argv: Sequence[str] | None) -> argparse.Namespace:
    prog = f"python -m benchmarks.{benchmark.name}"
    parser = FlagParser(prog, benchmark.description, f"{prog} --scale 0.1 --repeats 3")
    add_common_arguments(parser, benchmark.repeats)
    benchmark.add_arguments(parser)
    return parser.parse_args(argv)


def _run(benchmark: Benchmark, args: argparse.Namespace) -> Path:
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    rows: dict[str, list[Row]] = {table.name: [] for table in benchmark.tables}
    for table, row in benchmark.measure(args):
        if not rows[table.name]:
            print(f"\n{text_line(table.columns, headings(table.columns))}")
        print(text_line(table.columns, row_cells(table.columns, row)), flush=True)
        rows[table.name].append(row)
    return _write(benchmark, args, rows)


def _write(benchmark: Benchmark, args: argparse.Namespace, rows: dict[str, list[Row]]) -> Path:
    from benchmarks.harness import measure
    from engine import runs

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
