"""A folder of identities, or of pairs, divided into one to train on and one to validate on, with a manifest."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.conversion.workspace import open_workspace
from datasets.counted import counted
from datasets.faces.folder_scan import FolderScan, refuse_output_within
from datasets.faces.paths import open_regular
from datasets.paired.folders import HR, PARTNERS, is_paired, match_partners
from datasets.progress import tracked
from datasets.subset import split_identities
from system.files import write_text

MANIFEST = "split.json"
SIDES = ("train", "val")
IMAGES, PEOPLE = "images", "people"
_RESULT = "result"
_MAX_NAMED = 8

Images = Mapping[str, Sequence[str]]  # sorted names of the images of every identity


@dataclass(frozen=True)
class SplitJob:
    """One division.

    Attributes:
        source: folder of identities, or of `hr` with `lr`, `dsr` or both, which are divided alike.
        output: folder for the two sides; missing or empty.
        by: IMAGES: every identity's images are divided; PEOPLE: identities are, and nobody is on both sides.
        share: of the images in training, in (0, 1).
        min_images: identities with fewer are not divided.
        few_to_train: whether these go to training; else they are left out.
        seed: the same seed divides alike; by IMAGES, each identity whatever others there are.
        mode: key of MODES.
        follow_links: follow symbolic links that lead out of the source.
    """

    source: Path
    output: Path
    by: str = IMAGES
    share: float = 0.8
    min_images: int = 5
    few_to_train: bool = True
    seed: int = 42
    mode: str = "link"
    follow_links: bool = False


class Division(NamedTuple):
    """`<identity>/<image>` of each side, sorted, and the identities with too few images."""

    train: list[str]
    val: list[str]
    few: list[str]


class SplitOutcome(NamedTuple):
    """What a division came to: how many files are on each side, identities with too few images, lines for people."""

    counts: dict[str, int]
    few: list[str]
    lines: list[str]


def split_faces(job: SplitJob) -> SplitOutcome:
    """Write `<job.output>/train`, `<job.output>/val` and `split.json`, which has every file's SHA-256.

    Nothing has the name of the output before all of it is there.

    Raises:
        ValueError: if the source holds no identities, pairs do not match, nothing is left to validate on, or the output
            is not empty or lies in the source.
        OSError: if a file cannot be read, linked or written.
    """
    refuse_output_within(job.source, job.output, "--out")
    _refuse_content(job.output)
    images, folders = _read(job)
    division = divide(images, job)
    placed = {
        f"{side}/{folder}{partners[file]}": job.source / folder / partners[file]
        for side, files in zip(SIDES, division[:2], strict=True)
        for folder, partners in folders.items()
        for file in files
    }
    with open_workspace(job.output, f"split {os.urandom(8).hex()}") as workspace:
        result = workspace.folder / _RESULT
        checksums = _place(placed, result, MODES[job.mode], job.mode)
        outcome = _outcome(job, division, len(folders), checksums)
        content = {"format": "maskwise split 1", **_facts(job, outcome), "files": checksums}
        write_text(result / MANIFEST, json.dumps(content, indent=1))
        _refuse_content(job.output)  # another program may have written there
        workspace.publish([(_RESULT, job.output)])
    return outcome


def divide(images: Images, job: SplitJob) -> Division:
    """Divide the images of identities as a job says; by IMAGES floor(share * n) of each identity's go to training.

    Raises:
        ValueError: if no identity has enough images, or their share in training is none.
    """
    few = [person for person, names in images.items() if len(names) < job.min_images]
    enough = [person for person, names in images.items() if len(names) >= job.min_images]
    if not enough:
        raise ValueError(
            f"{job.source}: none of {counted(len(images), 'identity')} has {job.min_images} images; lower --min-images"
        )
    train = {file for person in few if job.few_to_train for file in _files(images, person)}
    if job.by == PEOPLE:
        counts = np.array([len(images[person]) for person in enough])
        for label in split_identities(len(enough), 1 - job.share, job.seed, counts)[0].tolist():
            train.update(_files(images, enough[label]))
    else:
        for person in enough:
            train.update(_some(_files(images, person), person, job))
    val = {file for person in enough for file in _files(images, person)} - train
    return Division(sorted(train), sorted(val), few)


def _files(images: Images, person: str) -> list[str]:
    return [f"{person}/{name}" for name in images[person]]


def _some(files: list[str], person: str, job: SplitJob) -> list[str]:
    """Return the share of an identity's files that goes to training."""
    num = int(Fraction(str(job.share)) * len(files))  # 0.29 * 100 is 28.999... to a float
    if num == 0:
        raise ValueError(
            f"--share {job.share} of {counted(len(files), 'image')} is none, as {person} has; raise --min-images"
        )
    # Keyed by the name, so that another identity changes nothing for this one.
    order = np.random.default_rng((job.seed, zlib.crc32(os.fsencode(person)))).permutation(len(files))
    return [files[place] for place in order[:num].tolist()]


def _read(job: SplitJob) -> tuple[Images, dict[str, dict[str, str]]]:
    """Return what is divided, and for each folder that is divided alike, with a slash behind it, the file of each."""
    if not is_paired(job.source):
        images = FolderScan(job.source, job.follow_links).images
        return images, {"": {file: file for person in images for file in _files(images, person)}}
    images = FolderScan(job.source / HR, job.follow_links).images
    own = [file for person in images for file in _files(images, person)]
    folders = {f"{HR}/": dict(zip(own, own, strict=True))}
    for name in (name for name in PARTNERS if (job.source / name).is_dir()):
        others = FolderScan(job.source / name, job.follow_links).images
        files = [file for person in others for file in _files(others, person)]
        partners = match_partners(job.source, own, files, (HR, name))
        folders[f"{name}/"] = dict(zip(own, partners, strict=True))
    return images, folders


def _refuse_content(output: Path) -> None:
    if os.path.lexists(output) and not (output.is_dir() and not any(output.iterdir())):
        what = "is not empty" if output.is_dir() else "is no folder"
        raise ValueError(f"--out {output} {what}; give a new folder")


def _hard_link(source: Path, target: Path) -> None:
    os.link(source.resolve(), target)  # of the file itself where the source is a link


def _symbolic_link(source: Path, target: Path) -> None:
    target.symlink_to(source.resolve())


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


MODES: dict[str, Callable[[Path, Path], None]] = {"link": _hard_link, "symlink": _symbolic_link, "copy": _copy}


def _place(files: Mapping[str, Path], result: Path, put: Callable[[Path, Path], None], mode: str) -> dict[str, str]:
    """Put files below a folder by their names there; return the SHA-256 of each."""
    checksums = {}
    for name, source in tracked(files.items(), "Dividing", len(files)):
        target = result / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            put(source, target)
        except OSError as error:
            if mode == "copy":
                raise
            remedy = "symlink or copy" if mode == "link" else "copy"
            raise OSError(error.errno, f"cannot be linked ({error.strerror}): --mode {remedy}", str(source)) from error
        with open_regular(target) as stream:
            checksums[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return checksums


def _outcome(job: SplitJob, division: Division, num_folders: int, checksums: Mapping[str, str]) -> SplitOutcome:
    train, val, few = division
    sides = dict(zip(SIDES, (train, val), strict=True))
    counts = {f"{side}_images": len(files) for side, files in sides.items()}
    counts |= {f"{side}_people": len({file.partition("/")[0] for file in files}) for side, files in sides.items()}
    seen = [{sha for name, sha in checksums.items() if name.startswith(f"{side}/")} for side in SIDES]
    counts["files_on_both_sides"] = len(seen[0] & seen[1])
    described = [
        f"{side} {counted(counts[f'{side}_images'], 'image')} of {counted(counts[f'{side}_people'], 'identity')}"
        for side in SIDES
    ]
    alike = f", each in {num_folders} folders" if num_folders > 1 else ""
    lines = [f"{job.output}: {', '.join(described)}{alike}"]
    if few:
        more = f" and {len(few) - _MAX_NAMED} more" if len(few) > _MAX_NAMED else ""
        where = "are in train alone" if job.few_to_train else "are left out"
        lines.append(
            f"fewer than {counted(job.min_images, 'image')}: {counted(len(few), 'identity')}, which {where}:"
            f" {', '.join(few[:_MAX_NAMED])}{more}"
        )
    if counts["files_on_both_sides"]:
        number = counted(counts["files_on_both_sides"], "file")
        lines.append(f"{number} of val to the byte the same as one of train: what is measured there is flattered")
    if job.mode == "symlink":
        lines.append("the images are links that lead out of the folder: give --follow_links to read them")
    return SplitOutcome(counts, few, lines)


def _facts(job: SplitJob, outcome: SplitOutcome) -> dict[str, object]:
    settings = {"by": job.by, "share": job.share, "min_images": job.min_images, "few_to_train": job.few_to_train}
    settings |= {"seed": job.seed, "mode": job.mode}
    return {"source": str(job.source), "settings": settings, "counts": outcome.counts, "few": outcome.few}
