"""Judge embeddings of people who are known: `python main.py probe --help`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cli.answers import shared
from options.command import FlagParser, as_typed, user_errors
from options.embedding import ProbeOptions
from options.flags import add_flags, path_word
from system.cores import bound_waiting
from system.terminal import show

_DESCRIPTION = """Judge embeddings of known people, as embed wrote them. Of each person with two or more images a
part tests, the others train: a linear layer on embeddings that stay as they are (MoCo's settings by default), and a
vote of the nearest neighbors, weighted by exp(cosine / temperature). Intervals resample people. Several folders of the
same images are divided alike, and each is compared with the first. Exit code: 0 done, 2 a mistake in the input."""


def main(argv: Sequence[str] | None = None, prog: str = "main.py probe") -> int:
    """Run the program with the words of its command line and return the exit code."""
    parser = FlagParser(prog, _DESCRIPTION, f"{as_typed(prog)} my_embeddings other_embeddings --k 20")
    parser.usage = f"{prog} FOLDER [FOLDER ...] [--flag value ...]"
    parser.add_argument("folders", metavar="FOLDER", nargs="+", type=path_word, help="embeddings that embed wrote")
    add_flags(parser, ProbeOptions, separator="-")
    with user_errors(prog):
        values = parser.read(argv)
        folders = values.pop("folders")
        options = ProbeOptions(**values)
        if options.output is not None:
            shared.check_writable(Path(options.output))
        bound_waiting()  # is read when torch is imported
        from cli.embedding.probing import probe

        show(probe(folders, options))
    return 0
