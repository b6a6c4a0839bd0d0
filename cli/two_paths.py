"""What the programs that make one folder of another have in common."""

from __future__ import annotations

import os
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
    parser: FlagParser,
    argv: Sequence[str] | None,
    section: type[Section],
    paths: Mapping[str, str],
    beside: str = "",
) -> Iterator[tuple[Path, Path, Section]]:
    """Read what is given and what is made of it, and the flags of a section.

    In the block bad input ends the program with one line, which names what is made where no other file is at fault; so
    does an interruption, after which the same command goes on.

    Args:
        parser: of the program, with its usage.
        argv: words of the command line.
        section: whose flags the program has.
        paths: what the help calls the two, and says of them.
        beside: what follows the name of what is given in the name of what is made, where the command leaves that out;
            "": it may not.
    """
    for dest, (name, text) in zip(("source", "output"), paths.items(), strict=True):
        argument = parser.add_argument(dest, metavar=name, type=path_word, help=text)
        if beside and dest == "output":
            argument.nargs, argument.required = "?", False
    add_flags(parser, section, separator="-")
    with user_errors(parser.prog):
        values = parser.read(argv)
        source, output = values.pop("source"), values.pop("output")
        if output is None:
            # Absolute, for "." and ".." have no name of their own.
            named = source if source.name not in ("", "..") else Path(os.path.abspath(source))  # noqa: PTH100
            output = named.with_name(f"{named.name}{beside}")
        with naming(output), interruptible(parser.prog):
            yield source, output, section(**values)
