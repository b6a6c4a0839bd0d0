"""Put people into a gallery, or take them out: `python main.py enrol --help`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cli.answers import shared
from datasets.counted import counted
from options.answers import EnrolOptions
from options.command import FlagParser, as_typed, interruptible, user_errors
from options.flags import add_flags, path_word
from system.terminal import show

_DESCRIPTION = """Put the people of a folder, PEOPLE/<person>/<photograph>, into the gallery GALLERY, a file that is
made where there is none. Photographs that are there already are passed over, people who are there gain by new ones;
--remove takes people out. The file is a whole gallery at every moment, with what is done so far: interrupted or killed,
the same command goes on. Exit code: 0 done, 2 a mistake in the input, 130 interrupted."""


def main(argv: Sequence[str] | None = None, prog: str = "main.py enrol") -> int:
    """Run the program with the words of its command line and return the exit code."""
    parser = FlagParser(prog, _DESCRIPTION, f"{as_typed(prog)} gallery.npz my_people --model_path last.ckpt")
    parser.usage = f"{prog} GALLERY [PEOPLE] --model_path FILE [--flag value ...]"
    parser.add_argument("gallery", metavar="GALLERY", type=path_word, help="file of the gallery")
    parser.add_argument(
        "people", metavar="PEOPLE", type=path_word, nargs="?", help="folder with a folder for each person"
    )
    add_flags(parser, EnrolOptions)
    with user_errors(prog):
        values = parser.read(argv)
        gallery, people = values.pop("gallery"), values.pop("people")
        show(_enrol(gallery, people, EnrolOptions(**values), prog))
    return 0


def _enrol(path: Path, people: Path | None, options: EnrolOptions, prog: str) -> str:
    if people is None and not options.remove:
        raise ValueError("nothing to do: give PEOPLE to put in, --remove NAME, or both")
    shared.check_writable(path)
    model = shared.load_model(options)
    from models import Gallery
    from models.portraits import find_people

    is_new = not path.exists()
    if is_new and options.remove:
        raise ValueError(f"{path}: no such gallery, from which --remove could take people")
    photographs = [] if people is None else find_people(people).paths
    aligner = shared.choose_aligner(model, options, photographs, None if is_new else Gallery.origin_of(path))
    gallery = Gallery(model, aligner, options.map_dtype) if is_new else Gallery.load(path, model, aligner)
    lines = []
    for name in options.remove:
        gallery.remove(name)
        lines.append(f"removed {name}")
    without = " without --remove" if options.remove else ""
    with interruptible(prog, f"what is done is kept, and the same command{without} goes on"):
        if people is not None:
            done = gallery.enrol(people, path)
            new = f"{done.photographs} photographs, {done.people} new people"
            lines += [f"added {new}; {done.known} were there already", *(f"left out: {why}" for why in done.failures)]
            if remarks := aligner.remarked(photographs):
                lines.append(f"several faces in {counted(len(remarks), 'photograph')}; the first: {remarks[0]}")
        gallery.save(path)
    return "\n".join([*lines, f"gallery of {len(gallery)} people, {len(gallery.photographs)} photographs: {path}"])
