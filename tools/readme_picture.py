"""The picture of the README: synthetic faces under every occluder, with true and predicted visibility.

Run `python -m tools.readme_picture --model-path experiments/<run>/last.ckpt --output docs/occlusion.png`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from options.command import FlagParser, launch, user_errors

PROGRAM = "python -m tools.readme_picture"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return the exit code."""
    parser = FlagParser(PROGRAM, __doc__ or "", f"{PROGRAM} --model-path experiments/demo_11-21_0/last.ckpt")
    parser.add_argument("--model-path", type=Path, required=True, help="checkpoint of a run")
    parser.add_argument("--output", type=Path, default=Path("docs/occlusion.png"), help="picture (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of faces and occluders (%(default)s)")
    arguments = parser.parse_args(argv)
    from tools.drawing.predictions import draw

    with user_errors(PROGRAM):
        draw(arguments.model_path, arguments.output, arguments.seed)
    return 0


if __name__ == "__main__":
    launch(PROGRAM, main)
