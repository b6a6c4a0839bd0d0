"""Find thresholds for a model on people of your own: `python main.py calibrate --help`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.answers import shared
from options.answers import CalibrateOptions
from options.command import FlagParser, as_typed, interruptible, user_errors
from options.flags import add_flags, path_word
from system.terminal import show

if TYPE_CHECKING:
    from models import Calibration

_DESCRIPTION = """Find the thresholds of each score, for clean faces and for faces behind drawn masks, from photographs
of people whom you know: PEOPLE/<person>/<photograph>. One half of the people chooses a threshold, the other half tests
it; intervals resample people. What the data cannot tell is said. The thresholds go into a JSON beside the model, with
checksums of model and data, where verify and identify find them. Exit code: 0 done, 2 a mistake in the input, 130
interrupted."""


def main(argv: Sequence[str] | None = None, prog: str = "main.py calibrate") -> int:
    """Run the program with the words of its command line and return the exit code."""
    parser = FlagParser(prog, _DESCRIPTION, f"{as_typed(prog)} my_people --model_path last.ckpt")
    parser.usage = f"{prog} PEOPLE --model_path FILE [--flag value ...]"
    parser.add_argument("people", metavar="PEOPLE", type=path_word, help="folder with a folder for each person")
    add_flags(parser, CalibrateOptions)
    with user_errors(prog):
        values = parser.read(argv)
        people = values.pop("people")
        with interruptible(prog, "nothing is written, and the same command begins anew"):
            text = _calibrate(people, CalibrateOptions(**values))
        show(text)
    return 0


def _calibrate(people: Path, options: CalibrateOptions) -> str:
    from models.calibration import beside

    output = beside(options.model_path) if options.output is None else Path(options.output)
    shared.check_writable(output)
    model = shared.load_model(options)
    from models import Plan, calibrate
    from models.portraits import find_people

    plan = Plan(options.fars, options.max_pairs, options.draws, options.seed)
    aligner = shared.choose_aligner(model, options, find_people(people).paths)
    found = calibrate(model, people, options.pairs, plan, aligner)
    found.save(output)
    return "\n".join([*describe(found), f"thresholds: {output}"])


def describe(calibration: Calibration) -> Iterator[str]:
    """Yield the lines of a calibration: a row for each threshold, then what the data cannot tell."""
    chosen, tested = calibration.num_people
    yield f"{chosen} people chose the thresholds, {tested} others tested them; intervals are 95 % over people"
    yield f"{'score':<8} {'faces':<7} {'FAR':>6} {'threshold':>10}  {'FAR found':<46} TAR found"
    for point in calibration.points:
        tar = "not known" if point.tar is None else str(point.tar)
        values = f"{point.far:>6g} {point.threshold:>10.4f}  {point.found_far!s:<46} {tar}"
        yield f"{point.score:<8} {point.condition:<7} {values}"
    if calibration.unresolved:
        yield f"not resolved by these people: FAR {', '.join(f'{far:g}' for far in calibration.unresolved)}"
    yield from calibration.notes
