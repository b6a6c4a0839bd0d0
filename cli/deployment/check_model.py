"""Check a model before it is used: `python main.py check-model --help`."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli.answers.shared import check_writable
from options.answers import OpeningOptions
from options.command import FlagParser, as_typed, interruptible, user_errors, version
from options.flags import Options, add_flags, flag, flag_like, path_word
from system.cores import bound_waiting
from system.files import write_text
from system.terminal import printable, show

if TYPE_CHECKING:  # torch is imported only after the options are known to be right
    from models.checking import Result, Subject

_DESCRIPTION = """Check a model before it is used: whether the file holds the network that it should, whole and with
numbers of use; whether the network behaves as it must, of an image alone and in company, twice, in training, after
saving, in half precision; and, of a recognizer, whether it knows drawn people from strangers, and expects the channel
order that it states. FILE: a recognizer of ours or from elsewhere, a pretraining, a detector.
Prints a line a failure and a table. Exit code: 0 nothing failed, 1 something did, 2 a mistake in the input."""


@dataclass(frozen=True, kw_only=True)
class CheckModelOptions(Options):
    """Model check."""

    arch: str | None = flag_like(OpeningOptions, "arch")
    color_space: str | None = flag_like(OpeningOptions, "color_space")
    encoder: str | None = flag_like(OpeningOptions, "encoder")
    verbose: bool = flag(False, "a line for each check, not for failures alone")
    json: str | None = flag(None, "file to write the results to, as JSON")


def main(argv: Sequence[str] | None = None, prog: str = "main.py check-model") -> int:
    """Run the program with the words of its command line and return the exit code."""
    parser = FlagParser(prog, _DESCRIPTION, f"{as_typed(prog)} last.ckpt --verbose --json checks.json")
    parser.usage = f"{prog} FILE [--flag value ...]"
    parser.add_argument("file", metavar="FILE", type=path_word, help="the model")
    add_flags(parser, CheckModelOptions)
    with user_errors(prog), interruptible(prog, "nothing is written"):
        values = parser.read(argv)
        file = values.pop("file")
        return _check(file, CheckModelOptions(**values))


def _check(file: Path, options: CheckModelOptions) -> int:
    if options.json is not None:
        check_writable(Path(options.json))
    bound_waiting()  # is read when torch is imported
    from models.checking import FAILED, open_subject, run_checks

    start = time.perf_counter()
    subject = open_subject(file, options.arch, options.color_space, options.encoder)
    results = []
    for result in run_checks(subject):
        results.append(result)
        if options.verbose or result.status == FAILED:
            show(printable(f"{result.status}: {result.check}: {result.line}"))
    seconds = time.perf_counter() - start
    show("\n".join(_table(subject, results, seconds)))
    if options.json is not None:
        write_text(Path(options.json), json.dumps(_record(subject, results, seconds), indent=1) + "\n")
    return int(any(result.status == FAILED for result in results))


def _table(subject: Subject, results: Sequence[Result], seconds: float) -> Iterator[str]:
    width = max(len(result.check) for result in results)
    yield f"{'check':<{width}}  result   seconds"
    for result in results:
        yield f"{result.check:<{width}}  {result.status}  {result.seconds:>7.2f}"
    counts = Counter(result.status for result in results)
    figures = ", ".join(f"{count} {status}" for status, count in counts.items())
    yield printable(f"{subject.path}: {subject.kind}, {subject.arch}: {figures}; {seconds:.1f} s")


def _record(subject: Subject, results: Sequence[Result], seconds: float) -> dict[str, object]:
    return {
        "file": str(subject.path),
        "kind": subject.kind,
        "arch": subject.arch,
        "seconds": round(seconds, 3),
        "version": version(),
        "checks": [result._asdict() for result in results],
    }
