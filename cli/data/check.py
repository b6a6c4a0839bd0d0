"""Say what is in a data set and what looks wrong with it: `python main.py check --help`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from engine.files import WriteFailures, side_file
from options.command import FlagParser, as_typed, user_errors
from options.flags import Options, add_flags, flag, path_word
from options.words.data_set import NAME
from system.files import write_text
from system.terminal import show

if TYPE_CHECKING:  # torch and OpenCV are imported only after the options are known to be right
    from datasets.doctor.diagnosis import Diagnosis
    from datasets.doctor.examine import FaceSource, LookedSet

SHARED = "shared_people.txt"
_DESCRIPTION = """Say what is in a data set and what looks wrong with it: counts, sizes, unreadable files, exact and
near duplicates, identities that are in a benchmark set too, red and blue swapped, unaligned faces. SOURCE is a folder
of identities or a record file or its folder. The report goes to stdout and into report.json; findings.csv names every
image it counts; contact_sheet.png and images_per_identity.png show it. With --embeddings, people who are probably in
several sets are listed in shared_people.txt, to look at and to give to a training (--merge_identities). Millions of
images need some hundred bytes of memory each. Exit code: 0 done, 1 with --strict if something was found, 2 a mistake in
the input, 74 a picture is missing."""


@dataclass(frozen=True, kw_only=True)
class CheckOptions(Options):
    """Check."""

    benchmarks: tuple[str, ...] = flag((), "benchmark sets, or folders that hold some, in any format")
    follow_links: bool = flag(False, "follow links in the folder of identities that lead out of it")
    embeddings: tuple[str, ...] = flag(
        (), "NAME=FOLDER of two sets or more, named as in --data, embedded with one network by `embed`: people who are "
        "probably in several of them are listed in shared_people.txt, as --merge_identities reads it",
    )  # fmt: skip
    shared_above: float = flag(
        0.5, "least cosine of the mean embeddings of two people who are listed; it depends on the network",
        within="[-1, 1]",
    )  # fmt: skip
    output_dir: str = flag("check", "folder of the report")
    jobs: int = flag(1, "processes; the report does not depend on them", within="[1, inf)")
    strict: bool = flag(False, "exit with 1 if something was found")


def main(argv: Sequence[str] | None = None, prog: str = "main.py check") -> int:
    """Run the program with the words of its command line and return the exit code."""
    parser = FlagParser(prog, _DESCRIPTION, f"{as_typed(prog)} my_faces --output-dir check")
    parser.usage = f"{prog} [SOURCE] [--benchmarks PATH,...] [--flag value ...]"
    parser.add_argument("source", metavar="SOURCE", type=path_word, nargs="?", help="the data set")
    add_flags(parser, CheckOptions, separator="-")
    with user_errors(prog):
        values = parser.read(argv)
        source = values.pop("source")
        options = CheckOptions(**values)
        from datasets.doctor import report

        shared = _shared_people(options)
        diagnosis = _diagnose(source, options) if source or options.benchmarks or not options.embeddings else None
        failures = WriteFailures()
        folder = Path(options.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        if options.embeddings:
            write_text(folder / SHARED, "".join(f"{line}\n" for line in shared))
        if diagnosis is not None:
            _write(folder, diagnosis, failures)
    if options.embeddings:
        show(f"{len(shared)} people are probably in two sets; look at {folder / SHARED} before --merge_identities")
    if diagnosis is not None:
        show(report.to_text(diagnosis))
        show(f"\nreport.json, findings.csv and pictures are in {options.output_dir}")
    found = bool(shared) or (diagnosis is not None and bool(diagnosis.findings()))
    return failures.exit_code() or int(options.strict and found)


def _shared_people(options: CheckOptions) -> list[str]:
    """Return a line of --merge_identities for two people of each two sets who are probably one, by falling cosine."""
    if not options.embeddings:
        return []
    from datasets.doctor.shared_identities import shared_identities
    from models.embedding.folder import read_embeddings
    from models.embedding.people import people_of

    places = dict(_named(word) for word in options.embeddings)
    if len(places) < max(2, len(options.embeddings)):
        raise ValueError("--embeddings: NAME=FOLDER of two sets or more is needed, each with a name of its own")
    embedded = {name: read_embeddings(place) for name, place in places.items()}
    if len({each.facts["weights_sha256"] for each in embedded.values()}) > 1:
        raise ValueError("--embeddings: the sets were embedded with different networks; embed all with one")
    people = {name: people_of(each) for name, each in embedded.items()}
    found = [
        (pair.cosine, f"{name}/{first.names[pair.first]} = {other}/{second.names[pair.second]}")
        for (name, first), (other, second) in combinations(people.items(), 2)
        for pair in shared_identities(first.means, second.means, options.shared_above)
    ]
    return [f"{line}  # {cosine:.3f}" for cosine, line in sorted(found, reverse=True)]


def _named(word: str) -> tuple[str, str]:
    name, _, place = word.partition("=")
    if not NAME.fullmatch(name) or not place:
        raise ValueError(f"--embeddings: expected NAME=FOLDER, as web=web_embedded; got {word!r}")
    return name, place


def _diagnose(source: Path | None, options: CheckOptions) -> Diagnosis:
    if source is None and not options.benchmarks:
        raise ValueError("nothing to check: give SOURCE, --benchmarks, --embeddings, or several of them")
    from datasets.doctor.diagnosis import Diagnosis
    from datasets.doctor.examine import look_at, look_at_set
    from datasets.faces.folder_scan import refuse_output_within
    from datasets.faces.image_folder import ImageFolderDataset

    # What is wrong with the command is said before hours of work.
    paths = _find_sets(options.benchmarks)
    dataset = None if source is None else _open(source, options.follow_links)
    if isinstance(dataset, ImageFolderDataset):
        refuse_output_within(dataset.root, Path(options.output_dir), "--output-dir")
    Path(options.output_dir).mkdir(parents=True, exist_ok=True)
    looked = None if dataset is None else look_at(dataset, options.jobs)
    model = None if looked is None else looked.model
    sets: list[LookedSet] = []
    broken: dict[str, str] = {}
    for name, path in paths.items():
        try:
            sets.append(look_at_set(path, name, model, options.jobs))
        except ValueError as error:
            broken[name] = str(error)
    if dataset is None and not sets:
        raise ValueError("; ".join(broken.values()))
    return Diagnosis(dataset, looked, sets, broken)


def _open(source: Path, follow_links: bool) -> FaceSource:
    from datasets import ImageFolderDataset, RecordDataset
    from datasets.faces.folder_scan import is_image

    if not source.exists():
        raise ValueError(f"{source} does not exist")
    if is_image(source):
        raise ValueError(f"{source} is one image; give a folder of identities, or a record file")
    if source.is_file() or any(source.glob("*.rec")):
        return RecordDataset(source)
    return ImageFolderDataset(source, follow_links=follow_links)


def _find_sets(benchmarks: Sequence[str]) -> dict[str, Path]:
    from datasets.benchmarks.sets import find_sets

    found: dict[str, Path] = {}
    for given in benchmarks:
        for name, path in find_sets(Path(given), own=True).items():
            if name in found:
                raise ValueError(f"--benchmarks: {found[name]} and {path} have one name; give one of them")
            found[name] = path
    return found


def _write(folder: Path, diagnosis: Diagnosis, failures: WriteFailures) -> None:
    import numpy as np

    from datasets.doctor import pictures, report

    report.write(folder, diagnosis)
    with side_file(failures, "contact_sheet.png"):
        pictures.write_sheet(folder / "contact_sheet.png", diagnosis)
    if diagnosis.dataset is not None:
        with side_file(failures, "images_per_identity.png"):
            pictures.write_histogram(folder / "images_per_identity.png", np.bincount(diagnosis.dataset.labels))
