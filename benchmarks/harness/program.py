"""The command line that all benchmarks share: options, a table that grows as it is measured, one JSON at the end."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness.tables import Row, Table, headings, row_cells, text_line
from options.command import FlagParser, as_typed
from system import ROOT

RESULTS = Path("experiments/benchmarks")
PAGE = ROOT / "docs/benchmarks.md"
OWN_PAGES, DEPLOYMENT = "benchmarks.own_pages", "benchmarks.deployment"
QACONV_ROWS = (
    *("self_7x7", "self_14x14", "gallery_7x7", "forward_7x7", "forward_14x14"),
    *("bf16_7x7", "bf16_14x14", "all_pairs"),
)


class Program(NamedTuple):
    """What the command line of a benchmark says without importing it, and what it measures."""

    repeats: int = 5
    flags: Mapping[str, Mapping[str, Any]] = {}  # of its own: keywords of add_argument
    output: Path = RESULTS
    package: str = "benchmarks"  # where the module of its name is


PROGRAMS = {
    "qaconv": Program(
        flags={
            "rows": {"nargs": "+", "choices": QACONV_ROWS, "default": [*QACONV_ROWS], "help": "to be measured (all)"}
        }
    ),
    "step": Program(
        flags={
            "arch": {"default": "ir_18", "help": "backbone of the variants (%(default)s)"},
            "batch_size": {"type": int, "default": 16, "help": "images of the variants (%(default)s)"},
            "shares_arch": {"default": "ir_tiny", "help": "backbone of the whole step (%(default)s)"},
            "shares_batch_size": {"type": int, "default": 64, "help": "images of the whole step (%(default)s)"},
            "shares_steps": {"type": int, "default": 20, "help": "whole steps that count (%(default)s)"},
            "data_root": {"help": "data of the whole step (the synthetic faces)"},
        }
    ),
    "head": Program(
        flags={
            "embedding_size": {"type": int, "default": 512, "help": "numbers of an embedding (%(default)s)"},
            "rate": {"type": float, "default": 0.1, "help": "share of the classes in a step (%(default)s)"},
            "batch_size": {"type": int, "default": 128, "help": "of all ranks together (%(default)s)"},
        }
    ),
    "validation": Program(
        repeats=3,
        flags={
            "archs": {"nargs": "+", "default": ["ir_18", "ir_50"], "help": "backbones (ir_18 ir_50)"},
            "num_pairs": {"type": int, "default": 84, "help": "pairs (%(default)s)"},
        },
    ),
    "gallery": Program(flags={"model_path": {"help": "checkpoint of ours (an untrained network)"}}),
    "evaluation": Program(
        repeats=3,
        flags={
            "images": {"type": int, "default": 13_233, "help": "of the set (%(default)s)"},
            "resamples": {"type": int, "default": 10_000, "help": "of the bootstrap (%(default)s)"},
        },
    ),
    "data": Program(),
    "sampler": Program(
        repeats=3,
        flags={
            "images": {"type": int, "default": 5_800_000, "help": "of the set (%(default)s)"},
            "identities": {"type": int, "default": 85_742, "help": "of the set (%(default)s)"},
            "batch_size": {"type": int, "default": 256, "help": "images (%(default)s)"},
        },
    ),
    "synthetic": Program(),
    "report_page": Program(repeats=3),
    "help": Program(repeats=10),
    "threads": Program(
        repeats=9,
        flags={
            "arch": {"default": "ir_tiny", "help": "network that is trained (%(default)s)"},
            "seconds": {"type": float, "default": 3.0, "help": "of a turn (%(default)s)"},
        },
    ),
    "edgeface": Program(repeats=31, package="benchmarks.finetuning"),
    # Not beside the others, whose tables are those of another page.
    "alignment": Program(
        repeats=3,
        flags={
            "photographs": {"help": "folder of photographs, one face each (drawn faces)"},
            "detectors": {"nargs": "+", "default": ["mtcnn"], "help": "detectors, as of main.py align (mtcnn)"},
        },
        output=Path("experiments/alignment"),
        package=OWN_PAGES,
    ),
    "contrast_step": Program(
        repeats=9,
        flags={
            "arch": {"default": "ir_18", "help": "backbone of both encoders (%(default)s)"},
            "batch_size": {"type": int, "default": 32, "help": "images (%(default)s)"},
            "queue_size": {"type": int, "default": 32768, "help": "keys (%(default)s)"},
        },
        package="benchmarks.pretraining",
    ),
    "loader": Program(output=Path("experiments/pretraining"), package="benchmarks.pretraining"),
    "clustering": Program(
        repeats=1,
        flags={"images": {"type": int, "default": 100_000, "help": "embeddings (%(default)s)"}},
        output=Path("experiments/pretraining"),
        package="benchmarks.pretraining",
    ),
    "lora": Program(
        flags={
            "arch": {"default": "edgeface_xs", "help": "net that is tuned (%(default)s)"},
            "batch_size": {"type": int, "default": 16, "help": "images (%(default)s)"},
        },
        output=Path("experiments/finetuning"),
        package="benchmarks.finetuning",
    ),
    "mixture": Program(
        repeats=15,
        flags={
            "arch": {"default": "ir_tiny", "help": "net of the step (%(default)s)"},
            "batch_size": {"type": int, "default": 96, "help": "images of the step (%(default)s)"},
            "people": {"type": int, "default": 3000, "help": "of all sets of the step (%(default)s)"},
            "images": {"type": int, "default": 6_000_000, "help": "of each set of the plan (%(default)s)"},
            "plan_batch_size": {"type": int, "default": 256, "help": "images of the plan (%(default)s)"},
        },
        output=Path("experiments/finetuning"),
        package="benchmarks.finetuning",
    ),
    "status_page": Program(repeats=9, output=Path("experiments/monitoring"), package=OWN_PAGES),
    "detector": Program(
        repeats=9,
        flags={
            "yunet": {"help": "file of YuNet, to be compared (left out)"},
            "resamples": {"type": int, "default": 1000, "help": "of a comparison's bootstrap (%(default)s)"},
        },
        output=Path("experiments/detection"),
        package="benchmarks.detection",
    ),
    "export": Program(
        flags={
            "archs": {
                "nargs": "+",
                "default": ["ir_tiny", "ir_18", "mobilefacenet"],
                "help": "networks (ir_tiny ir_18 mobilefacenet)",
            },
            "exported": {"default": "ir_50", "help": "network whose export is timed (%(default)s)"},
        },
        output=Path("experiments/export"),
        package=DEPLOYMENT,
    ),
    "export_parity": Program(
        repeats=1,
        flags={"archs": {"nargs": "+", "help": "networks, detectors too (all)"}},
        output=Path("experiments/export"),
        package=DEPLOYMENT,
    ),
    "export_cost": Program(
        repeats=15,
        flags={
            "model_path": {"required": True, "help": "checkpoint of ours"},
            "far": {"type": float, "default": 1e-3, "help": "false-accept rate of the TAR (%(default)s)"},
        },
        output=Path("experiments/export"),
        package=DEPLOYMENT,
    ),
    "structures": Program(repeats=1, output=Path("experiments/scaling"), package=OWN_PAGES),
}


class Benchmark(NamedTuple):
    """A module of this folder, as its `BENCHMARK`."""

    tables: tuple[Table, ...]
    measure: Callable[[argparse.Namespace], Iterator[tuple[Table, Row]]]  # yields the rows in the tables' order


def add_common_arguments(parser: argparse.ArgumentParser, program: Program | None = None) -> None:
    """Add the options that every benchmark has, and all of them together."""
    repeats, output = (None, RESULTS) if program is None else (program.repeats, program.output)
    parser.add_argument("--repeats", type=_count, default=repeats, help="runs; their median counts (%(default)s)")
    parser.add_argument("--threads", type=_count, help="of torch (its own choice)")
    parser.add_argument("--scale", type=_scale, default=1.0, help="factor of all sizes: a small one tests the program")
    parser.add_argument("--output", type=Path, default=output, help="folder of the JSON files (%(default)s)")
    parser.add_argument("--update-docs", action="store_true", help="rewrite the tables of the documentation")
    parser.add_argument("--docs", type=Path, default=PAGE, help="page with the tables")


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


def read(name: str, argv: Sequence[str], prog: str) -> argparse.Namespace:
    """Return the options of one benchmark, whose module is not imported for it."""
    source = ROOT.joinpath(*PROGRAMS[name].package.split("."), f"{name}.py")
    description = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    parser = FlagParser(f"{prog} {name}", description, f"{as_typed(prog)} {name} --scale 0.1 --repeats 3")
    add_common_arguments(parser, PROGRAMS[name])
    for flag, keywords in PROGRAMS[name].flags.items():
        parser.add_argument(f"--{flag}", **keywords)
    return parser.parse_args(argv)


def run(name: str, args: argparse.Namespace) -> Path:
    """Measure, print each row when it is there, and return the JSON written."""
    benchmark: Benchmark = import_module(f"{PROGRAMS[name].package}.{name}").BENCHMARK
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    rows: dict[str, list[Row]] = {table.name: [] for table in benchmark.tables}
    for table, row in benchmark.measure(args):
        if not rows[table.name]:
            print(f"\n{text_line(table.columns, headings(table.columns))}")
        print(text_line(table.columns, row_cells(table.columns, row)), flush=True)
        rows[table.name].append(row)
    return _write(name, benchmark, args, rows)


def _write(name: str, benchmark: Benchmark, args: argparse.Namespace, rows: dict[str, list[Row]]) -> Path:
    from benchmarks.harness import measure
    from engine import runs

    path = args.output / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {key: value for key, value in vars(args).items() if key not in ("output", "docs", "update_docs")}
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
