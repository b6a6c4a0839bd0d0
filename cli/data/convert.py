"""Turn a data set from one format into another: `python main.py convert --help`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli.two_paths import read_two_paths
from datasets.counted import counted
from options.command import FlagParser, as_typed
from options.flags import Options, flag
from system.terminal import printable, show

if TYPE_CHECKING:  # torch and OpenCV are imported only after the options are known to be right
    from datasets.conversion.outcome import Outcome

TARGETS = ("records", "folder", "bin", "memmap", "arrays")
ENCODINGS = ("png", "jpeg")  # as of datasets.conversion.encoding; a test compares them
NAME_SOURCES = ("labels", "list")

_DESCRIPTION = """Turn a data set from one format into another.
records: SOURCE, a folder of identities -> OUTPUT/train.rec, .idx, .lst and property.
folder: SOURCE, a record file or its folder -> OUTPUT/<identity>/<image>, every image with the bytes it has.
bin: SOURCE, a folder of identities with pairs.txt or pairs.csv -> OUTPUT, InsightFace's verification file.
memmap: SOURCE, a .bin file, a bcolz folder, a folder of identities with pairs, or a folder that holds such sets
-> OUTPUT/<name>/, which opens at once.
arrays: SOURCE, a folder of identities or records -> OUTPUT, every image decoded once: 38 kB each, for pretraining on
data that fit into memory so.
Interrupted, the same command goes on (memmap: begins the set again). Images that cannot be read are listed in
OUTPUT.unreadable.tsv. Exit code: 0 done, 1 done but for such images, 2 a mistake in the input, 130 interrupted."""


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(Options):
    """Conversion."""

    to: str | None = flag(None, "what to write", choices=TARGETS)
    encoding: str = flag("png", "of images that are no JPEG or PNG of 112 x 112; png is lossless", choices=ENCODINGS)
    quality: int = flag(95, "of JPEG", within="[1, 100]")
    pairs: str | None = flag(None, "the list of pairs for bin; else pairs.txt or pairs.csv in SOURCE")
    names_from: str = flag(
        "labels", "what names folders and images: the records' numbers, or .lst", choices=NAME_SOURCES
    )
    set_name: str | None = flag(None, "of a single set of memmap; else that of its file or folder")
    follow_links: bool = flag(
        False, "follow links in the folder of identities of records or arrays that lead out of it"
    )
    shard_images: int = flag(2**13, "of each file of arrays", within="[1, 32768]")
    jobs: int = flag(1, "processes; the result does not depend on them", within="[1, inf)")
    overwrite: bool = flag(False, "replace a result of this program that is there")


def main(argv: Sequence[str] | None = None, prog: str = "main.py convert") -> int:
    """Run the program with the words of its command line and return the exit code."""
    parser = FlagParser(prog, _DESCRIPTION, f"{as_typed(prog)} my_faces my_records --to records")
    parser.usage = f"{prog} SOURCE OUTPUT --to {{{','.join(TARGETS)}}} [--flag value ...]"
    paths = {"SOURCE": "what to convert", "OUTPUT": "what to write"}
    with read_two_paths(parser, argv, ConvertOptions, paths) as (source, output, options):
        outcomes = _convert(source, output, options)
    for outcome in outcomes:
        show(_describe(outcome))
    return int(any(outcome.num_unreadable for outcome in outcomes))


def _convert(source: Path, output: Path, options: ConvertOptions) -> list[Outcome]:
    if options.to is None:
        raise ValueError(f"--to is needed: {', '.join(TARGETS)}")
    if not source.exists():
        raise ValueError(f"{source} does not exist")
    from datasets.conversion.encoding import Encoding
    from datasets.conversion.outcome import Job
    from datasets.conversion.to_arrays import images_to_arrays
    from datasets.conversion.to_bin import folder_to_bin
    from datasets.conversion.to_folder import records_to_folder
    from datasets.conversion.to_memmap import sets_to_memmap
    from datasets.conversion.to_records import folder_to_records

    job = Job(source, output, Encoding(options.encoding, options.quality), options.jobs, options.overwrite)
    if options.follow_links and options.to not in ("records", "arrays"):
        raise ValueError(f"--follow-links belongs to --to records and arrays, not to {options.to}; leave it out")
    _check_kind(source, options.to)
    match options.to:
        case "records":
            return [folder_to_records(job, options.follow_links)]
        case "folder":
            return [records_to_folder(job, options.names_from == "list")]
        case "bin":
            return [folder_to_bin(job, Path(options.pairs) if options.pairs else None)]
        case "arrays":
            return [images_to_arrays(job, options.shard_images, follow_links=options.follow_links)]
    return sets_to_memmap(job, options.set_name)


def _check_kind(source: Path, target: str) -> None:
    """Refuse a source of a kind that the target is not made from, in the words of the program."""
    from datasets.benchmarks.benchmark import opener_of

    is_records = source.suffix == ".rec" or (source.is_dir() and any(source.glob("*.rec")))
    if target == "folder":
        if not is_records:
            raise ValueError(f"{source}: --to folder takes a record file, and this is none")
    elif is_records and target == "arrays":
        return
    elif is_records and target != "memmap":
        raise ValueError(f"{source}: --to {target} takes a folder of identities, and this holds records; --to folder")
    elif source.is_file() and not (target == "memmap" and opener_of(source) is not None):
        raise ValueError(f"{source}: --to {target} takes a folder, and this is a file")


def _describe(outcome: Outcome) -> str:
    lines = [outcome.text]
    if outcome.num_unreadable:
        lines.append(f"unreadable: {counted(outcome.num_unreadable, 'image')}, listed in {outcome.unreadable}")
    return "\n".join(printable(line) for line in lines)
