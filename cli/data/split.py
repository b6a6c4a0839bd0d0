"""Divide a data set into training and validation: `python main.py split --help`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from options.command import FlagParser, as_typed, interruptible, user_errors
from options.flags import Options, add_flags, flag, path_word
from options.names import SEEDS
from system.files import naming
from system.terminal import printable, show

KINDS = ("images", "people")  # these three as of datasets.conversion.splitting; a test compares them
MODES = ("link", "symlink", "copy")
FEW = ("train", "out")

_DESCRIPTION = """Divide a folder of identities into OUT/train and OUT/val, by default 80 to 20 of every person's
images. FOLDER may also hold hr/<person>/<image> with partners in lr/ or dsr/, which are divided alike. OUT/split.json
has the settings, the counts and the SHA-256 of every file. Interrupted, nothing is left of it. Exit code: 0 done, 2 a
mistake in the input, 130 interrupted."""


@dataclass(frozen=True, kw_only=True)
class SplitOptions(Options):
    """Division."""

    out: str | None = flag(None, "folder for the two sides, new or empty")
    by: str = flag(
        "images", "what is divided: the images of every person, or people, none of whom is then on both sides",
        choices=KINDS,
    )  # fmt: skip
    share: float = flag(0.8, "of the images in training; of a person's the number is rounded down", within="(0, 1)")
    min_images: int = flag(5, "people with fewer are not divided", within="[2, inf)")
    few: str = flag("train", "where these people go: into training, or out", choices=FEW)
    seed: int = flag(42, "of the division", within=SEEDS)
    mode: str = flag("link", "how files get there: as hard links, symbolic links or copies", choices=MODES)
    follow_links: bool = flag(False, "follow links in FOLDER that lead out of it")


def main(argv: Sequence[str] | None = None, prog: str = "main.py split") -> int:
    """Run the program with the words of its command line and return the exit code."""
    parser = FlagParser(prog, _DESCRIPTION, f"{as_typed(prog)} my_faces --out my_split")
    parser.usage = f"{prog} FOLDER --out OUT [--flag value ...]"
    parser.add_argument("source", metavar="FOLDER", type=path_word, help="what to divide")
    add_flags(parser, SplitOptions, separator="-")
    with user_errors(prog):
        values = parser.read(argv)
        lines = _split(values.pop("source"), SplitOptions(**values), prog)
    show("\n".join(map(printable, lines)))
    return 0


def _split(source: Path, options: SplitOptions, prog: str) -> list[str]:
    if options.out is None:
        raise ValueError("--out is needed: a folder for the two sides")
    from datasets.conversion.splitting import SplitJob, split_faces

    output, values = Path(options.out), options.to_dict()
    few_to_train = values.pop("few") == "train"
    del values["out"]
    with naming(output), interruptible(prog, f"nothing is left in {output}"):
        return split_faces(SplitJob(source, output, few_to_train=few_to_train, **values)).lines  # type: ignore[arg-type]
