"""What the programs that make one folder of another have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from options.command import FlagParser, interruptible, user_errors
from options.flags import Options, add_flags, path_word
from system.files import naming

Section = TypeVar("Section", bound=Options)


@contextmanager
def read_two_paths(
    parser: FlagParser, argv: Sequence[str] | None, section: type[Section], paths: Mapping[str, str]
) -> Iterator[tuple[Path, Path, Section]]:
    """Read what is given and what is made of it, and the flags of a section.

    In the block bad input ends the program with one line, which names what is made where no other file is at fault; so
    does an interruption, after which the same command goes on.

    Args:
        parser: of the program, with its usage.
        argv: words of the command line.
        section: whose flags the program has.
        paths: what the help calls the two, and says of them.
    """
    for dest, (name, text) in zip(("source", "output"), paths.items(), strict=True):
        parser.add_argument(dest, metavar=name, type=path_word, help=text)
    add_flags(parser, section, separator="-")
    with user_errors(parser.prog):
        values = parser.read(argv)
        source, output = values.pop("source"), values.pop("output")
        with naming(output), interruptible(parser.prog):
            yield source, output, section(**values)
