"""What an occlusion head finds on photographs behind drawn occluders, with intervals over people.

A cell of the map is hidden where its true visibility is below 0.5, else visible. It is called hidden where the
predicted one is below a threshold: 0.5, and the one at which 3 % of the visible cells of all images, clean ones too,
are lost. Gray photographs are made gray again after drawing. Several models, each with people that it was not trained
on, are measured together: the splits of a cross-validation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from options.command import FlagParser, launch

PROGRAM = "python -m benchmarks.occlusion_head"


def main(argv: Sequence[str] | None = None, prog: str = PROGRAM) -> int:
    """Measure, print a table, write JSON if asked."""
    parser = FlagParser(prog, __doc__ or "", f"{PROGRAM} --model-path last.ckpt --people faces --draws 5")
    parser.add_argument("--model-path", type=Path, required=True, nargs="+", help="checkpoint of a run, or several")
    parser.add_argument(
        "--people", type=Path, required=True, nargs="+",
        help="folder with a folder of photographs for each person, one for each checkpoint",
    )  # fmt: skip
    parser.add_argument("--draws", type=int, default=5, help="times that each photograph is occluded by each kind (5)")
    parser.add_argument("--output", type=Path, help="JSON file of the figures")
    args = parser.parse_args(argv)
    from benchmarks.occlusion_head.measure import measure, read_people, table
    from models import load
    from system.files import atomic_write

    try:
        if args.draws < 1:
            raise ValueError(f"--draws: 1 or more expected, got {args.draws}")
        if len(args.model_path) != len(args.people):
            counts = f"{len(args.model_path)} and {len(args.people)}"
            raise ValueError(f"--model-path and --people: as many folders as checkpoints expected, got {counts}")
        splits = [(load(path), read_people(folder)) for path, folder in zip(args.model_path, args.people, strict=True)]
        for path, (model, _) in zip(args.model_path, splits, strict=True):
            if model.occlusion_head is None:
                raise ValueError(f"{path}: this model has no occlusion head; train with --occlusion_loss_weight")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    found = measure(splits, args.draws)
    print("\n".join(table(found)))
    if args.output is not None:
        with atomic_write(args.output, "w") as stream:
            stream.write(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    launch(PROGRAM, main)
