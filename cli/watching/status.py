"""Say how runs are, on one page and in the terminal: `python main.py status --help`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from options.command import FlagParser, as_typed, user_errors
from options.flags import Options, add_flags, flag, path_word
from system.files import write_text
from system.terminal import printable, show

_DESCRIPTION = """Say of each run whether it runs, has ended or died, how far it is and how good, in the terminal and on
a page with their curves. FOLDER is a run folder or holds some; without one it is experiments. Runs are read, not
changed. Exit code: 0 done, 2 a mistake in the input."""
DEFAULT = Path("experiments")


@dataclass(frozen=True, kw_only=True)
class StatusOptions(Options):
    """Status."""

    output_dir: str | None = flag(None, "folder of the page, status.html; else the first FOLDER, or that of a run")


def main(argv: Sequence[str] | None = None, prog: str = "main.py status") -> int:
    """Run the program with the words of its command line and return the exit code."""
    parser = FlagParser(prog, _DESCRIPTION, f"{as_typed(prog)} experiments")
    parser.usage = f"{prog} [FOLDER ...] [--flag value ...]"
    parser.add_argument("folders", metavar="FOLDER", type=path_word, nargs="*", help="a run, or a folder of runs")
    add_flags(parser, StatusOptions, separator="-")
    with user_errors(prog):
        values = parser.read(argv)
        folders = values.pop("folders") or [DEFAULT]
        _tell(folders, StatusOptions(**values))
    return 0


def _tell(folders: Sequence[Path], options: StatusOptions) -> None:
    from engine.status.overview import HEAD, build_overview, look_at
    from engine.status.state import PAGE, is_run, newest_runs

    runs = [look_at(folder) for folder in newest_runs([*folders])]
    first = folders[0].resolve().parent if is_run(folders[0]) else folders[0]
    place = first if options.output_dir is None else Path(options.output_dir)
    if is_run(place):
        raise ValueError(f"--output-dir {place}: is the folder of a run, which has a page of its own; give another")
    place.mkdir(parents=True, exist_ok=True)
    write_text(place / PAGE, build_overview(runs, place, time.time()))
    rows = [HEAD, *(run.cells() for run in runs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        show("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    for run in runs:
        if run.state.words:
            show(f"{run.name}: {printable(run.state.words)}")
        if run.fault:
            show(printable(run.fault))
    show(f"page: {place / PAGE}")
