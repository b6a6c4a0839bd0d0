"""Say whether two photographs show one person: `python main.py verify --help`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cli.answers import shared
from options.answers import VerifyOptions
from options.command import FlagParser, as_typed, user_errors
from options.flags import add_flags, path_word
from system.terminal import show

_DESCRIPTION = """Say whether two photographs show one person, and how sure that is: the score, the threshold, how many
pairs of different people pass it, and how much of either face is visible. Thresholds come from calibrate; without them
the score is ranked among pairs of different people, and the answer is neither yes nor no. Exit code: 0 answered, 2 a
mistake in the input."""


def main(argv: Sequence[str] | None = None, prog: str = "main.py verify") -> int:
    """Run the program with the words of its command line and return the exit code."""
    parser = FlagParser(prog, _DESCRIPTION, f"{as_typed(prog)} a.jpg b.jpg --model_path last.ckpt --picture answer.png")
    parser.usage = f"{prog} A B --model_path FILE [--flag value ...]"
    for name in ("a", "b"):
        parser.add_argument(name, metavar=name.upper(), type=path_word, help="photograph of a face")
    add_flags(parser, VerifyOptions)
    with user_errors(prog):
        values = parser.read(argv)
        pair = values.pop("a"), values.pop("b")
        show(_answer(pair, VerifyOptions(**values)))
    return 0


def _answer(pair: tuple[Path, Path], options: VerifyOptions) -> str:
    if options.picture is not None:
        shared.check_writable(Path(options.picture))
    model = shared.load_model(options)
    calibration = shared.find_calibration(options, options.model_path)
    aligner = shared.choose_aligner(model, options, pair, None if calibration is None else calibration.origin)
    if calibration is not None and options.impostors is not None:
        raise ValueError("--impostors is for an answer without thresholds; add --calibration none, or leave it out")
    from models import Impostors

    impostors = None if options.impostors is None else Impostors.of(model, options.impostors, aligner)
    answer = model.verify(*pair, calibration, options.score, options.far, impostors, aligner)
    if options.picture is not None:
        from cli.answers.picture import write_picture

        write_picture(Path(options.picture), model, pair, answer, aligner)
    return str(answer)
