"""Look photographs up in a gallery: `python main.py identify --help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from cli.answers import shared
from options.answers import IdentifyOptions
from options.command import FlagParser, as_typed, user_errors
from options.flags import add_flags, path_word
from system.terminal import printable, show

_DESCRIPTION = """Look photographs up in the gallery that enrol wrote: the best candidates, and "unknown" where the best
one stays below the open-set threshold, which the lines after the candidates explain. Exit code: 0 answered, 2 a mistake
in the input; a photograph that cannot be read is one line on stderr, and the others are looked up."""


def main(argv: Sequence[str] | None = None, prog: str = "main.py identify") -> int:
    """Run the program with the words of its command line and return the exit code."""
    parser = FlagParser(prog, _DESCRIPTION, f"{as_typed(prog)} gallery.npz probe.jpg --model_path last.ckpt")
    parser.usage = f"{prog} GALLERY PROBE [PROBE ...] --model_path FILE [--flag value ...]"
    parser.add_argument("gallery", metavar="GALLERY", type=path_word, help="file of the gallery")
    parser.add_argument("probes", metavar="PROBE", type=path_word, nargs="+", help="photograph of a face")
    add_flags(parser, IdentifyOptions)
    with user_errors(prog):
        values = parser.read(argv)
        gallery, probes = values.pop("gallery"), values.pop("probes")
        return _identify(gallery, probes, IdentifyOptions(**values), prog)


def _identify(path: Path, probes: Sequence[Path], options: IdentifyOptions, prog: str) -> int:
    model = shared.load_model(options)
    from models import Gallery
    from models.portraits import choose_score

    calibration = shared.find_calibration(options, options.model_path)
    gallery = Gallery.load(path, model, shared.choose_aligner(model, options, probes, Gallery.origin_of(path)))
    choose_score(model, options.score)  # what is wrong with the command is said once, not for each photograph
    code = 0
    for probe in probes:
        try:
            found = gallery.identify(probe, options.top, options.score, options.fpir, calibration)
        except ValueError as error:
            sys.stderr.write(f"{prog}: error: {printable(str(error), 1000)}\n")
            code = 2
        else:
            show(f"{printable(probe)}: {found}")
    return code
