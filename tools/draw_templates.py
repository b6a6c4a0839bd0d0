"""Draw the templates under assets/ again, over what is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from options.command import FlagParser, launch, user_errors
from system import ROOT

PROGRAM = "python -m tools.draw_templates"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return the exit code."""
    parser = FlagParser(PROGRAM, __doc__ or "", f"{PROGRAM} --output my_assets")
    parser.add_argument("--output", type=Path, default=ROOT / "assets", help="folder (%(default)s)")
    arguments = parser.parse_args(argv)
    from tools.drawing.templates import draw_all

    with user_errors(PROGRAM):
        draw_all(arguments.output)
    return 0


if __name__ == "__main__":
    launch(PROGRAM, main)
