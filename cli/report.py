"""Write the pages of runs anew, and one that compares them: `python main.py report --help`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from options.command import FlagParser, as_typed, user_errors
from options.flags import Options, add_flags, flag, path_word
from system.files import write_text
from system.terminal import printable, show

if TYPE_CHECKING:  # numpy is imported only after the options are known to be right
    from evaluation.report.page import Run

_DESCRIPTION = """Write the report's page of each RUN anew, from its results.json, metrics.csv and pictures; of several
also one page that compares them. RUN is a run folder, the output folder of an evaluation, or a results.json. A page is
one file without any link to elsewhere. Exit code: 0 done, 2 a mistake in the input."""


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    """Report."""

    output_dir: str = flag("experiments/comparison", "folder of the page that compares several runs")
    anonymous: bool = flag(False, "leave faces, names and paths out of the pages; names of runs and sets stay")


class Source(NamedTuple):
    """Where a run's results lie, and the run folder that they belong to, if there is one."""

    report: Path
    run: Path | None

    @property
    def name(self) -> str:
        """What the user calls it."""
        return printable((self.run or self.report).resolve().name)


def main(argv: Sequence[str] | None = None, prog: str = "main.py report") -> int:
    """Run the program with the words of its command line and return the exit code."""
    parser = FlagParser(
        prog, _DESCRIPTION, f"{as_typed(prog)} experiments/maskwise_01-31_0 experiments/maskwise_01-31_1"
    )
    parser.usage = f"{prog} RUN [RUN ...] [--flag value ...]"
    parser.add_argument(
        "runs", metavar="RUN", type=path_word, nargs="*", help="a run, an evaluation or its results.json"
    )
    add_flags(parser, ReportOptions, separator="-")
    with user_errors(prog):
        values = parser.read(argv)
        paths = values.pop("runs")
        if not paths:
            raise ValueError("nothing to report: give one or more run folders")
        for page in _write(paths, ReportOptions(**values)):
            show(f"page: {page}")
    return 0


def _write(paths: Sequence[Path], options: ReportOptions) -> list[Path]:
    """Write all pages and return their paths; nothing is written before all of them are built."""
    from evaluation.report.page import PAGE, build_comparison, build_page

    sources = [_find(path) for path in paths]
    runs = [_read(source, name) for source, name in zip(sources, _names(sources), strict=True)]
    texts = {}
    for source, run in zip(sources, runs, strict=True):
        with _as_one_line(source.report):
            texts[source.report / PAGE] = build_page(source.report, run.results, source.run, options.anonymous)
    if len(runs) > 1:
        texts[Path(options.output_dir) / PAGE] = build_comparison(runs, options.anonymous)
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    return list(texts)


def _find(path: Path) -> Source:
    if path.name == "results.json" and path.is_file():
        path = path.parent
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    for folder in (path / "report", path):
        if (folder / "results.json").is_file():
            run = folder.parent if (folder.parent / "metrics.csv").is_file() and folder.name == "report" else None
            return Source(folder, run)
    raise ValueError(f"{path}: no results.json in it, nor in its folder `report`; is it a run that was evaluated?")


def _names(sources: Sequence[Source]) -> list[str]:
    """Return a name for each run: that of its folder, or all of its path where two would be called alike."""
    names = [source.name for source in sources]
    return [
        name if names.count(name) == 1 else printable(os.fspath(source.report))
        for name, source in zip(names, sources, strict=True)
    ]


def _read(source: Source, name: str) -> Run:
    from evaluation.report.page import Run, read_metrics
    from evaluation.report.results import read_results

    results = read_results(source.report / "results.json")
    return Run(name, results, {} if source.run is None else read_metrics(source.run / "metrics.csv"))


@contextmanager
def _as_one_line(folder: Path) -> Iterator[None]:
    """Say of results that cannot be drawn which file they are in: it may come from anywhere."""
    try:
        yield
    except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{folder / 'results.json'}: not the results of an evaluation ({reason})") from error
