"""Whether a folder of people holds photographs or aligned crops, and crops of it in the cache where it holds those."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from datasets.cache_folder import cache_folder
from datasets.conversion.workspace import BusyError
from datasets.counted import counted
from datasets.faces.image_folder import ImageFolderDataset
from datasets.faces.images import UnreadableImageError, read_image
from datasets.photos.aligned import ALIGNED, Finder, first_look
from datasets.photos.given_points import GivenPoints
from datasets.photos.sources import Photographs
from datasets.photos.to_crops import RECORD, AlignJob, Choice, align_photographs, summary
from transforms import IMAGE_SIZE, TEMPLATE

logger = logging.getLogger(__name__)

AUTO, NO = "auto", "no"  # of options.names.ALIGNMENTS; "yes" is the third
SAMPLE = 24
# Pixels of 112. Crops that were aligned have 3, or 5 where another detector looks; the drawn faces 5 to 6.
MAX_OFF = 10.0
_MIN_FOUND = 1 / 3  # of the sample: with fewer faces found nothing can be said
Accept: TypeAlias = Callable[[Mapping[str, object]], None]
_DEPTH = 3  # folders above a crop in which its note is looked for
_WAIT = 1.0  # seconds between two looks whether another rank is done


class People(NamedTuple):
    """A folder of people as it is to be read.

    Attributes:
        root: the folder itself, or one of aligned crops in the cache.
        text: what was found and done, for the log and the report.
        detector: which one aligned it, None where that is not known.
        size: side of the crops that were aligned, None likewise.
    """

    root: Path
    text: str
    detector: str | None = None
    size: int | None = None

    def facts(self) -> dict[str, object]:
        """Return what a report says: what was done, the detector and the template, None where they are not known."""
        # Crops of a multiple of the size have the same template, and are read at this size.
        template = None if self.size is None else f"five points, {IMAGE_SIZE} x {IMAGE_SIZE}"
        return {"aligned": self.text, "detector": self.detector, "template": template}


class Sample(NamedTuple):
    """What a detector says of some images of a folder.

    Attributes:
        num_images: readable images looked at.
        num_found: how many of them have a face.
        off: median distance of its five points to the template, root mean square in pixels of 112; infinite in images
            that are not square, NaN without a face.
    """

    num_images: int
    num_found: int
    off: float

    @property
    def is_judged(self) -> bool:
        """Whether enough faces were found."""
        return self.num_found >= max(2, _MIN_FOUND * self.num_images)

    @property
    def is_aligned(self) -> bool:
        """Whether the faces lie where the template has them."""
        return self.is_judged and self.off <= MAX_OFF

    def __str__(self) -> str:
        seen = f"{self.num_found} of {counted(self.num_images, 'image')} looked at have a face that is found"
        if not self.num_found:
            return seen
        if np.isinf(self.off):
            return f"{seen}, most of them in images that are not square"
        return f"{seen}, {self.off:.1f} pixels of 112 off the template in the median"


def open_people(
    dataset: ImageFolderDataset, mode: str, detector: Choice, jobs: int = 1, accept: Accept | None = None
) -> tuple[ImageFolderDataset, People]:
    """Return the data set to read in place of one, as `prepare_people` decides, and what was decided; it is logged."""
    people = prepare_people(dataset, mode, detector, jobs, accept)
    logger.info("%s: alignment: %s", dataset.root, people.text)
    if people.root == dataset.root:
        return dataset, people
    swap = dataset.swap_color_channel  # the crops have the channels of their photographs
    return ImageFolderDataset(people.root, dataset.transform, swap_color_channel=swap), people


def prepare_people(
    dataset: ImageFolderDataset, mode: str, detector: Choice, jobs: int = 1, accept: Accept | None = None
) -> People:
    """Return the folder to read in place of a folder of people: itself, or aligned crops of it.

    A folder that `main.py align` wrote is known by its alignment.json. With `auto` a sample of another one is looked
    at: where faces are found, and not at the template's places, it is aligned into the cache folder, once; other ranks
    wait.

    Args:
        dataset: the folder.
        mode: "auto", "yes" or "no".
        detector: what finds the faces.
        jobs: processes that align.
        accept: is told the facts of the crops before any is made, and raises where they are not to be used; with "no"
            it is not asked.
    Raises:
        ValueError: if the crops have another template than networks here, or the detector cannot be opened and is
            needed.
    """
    made = _read_record(dataset.root)
    if made is not None:
        if accept is not None and mode != NO:
            accept(made.facts())
        return made
    if mode == NO:
        return People(dataset.root, "not looked for (--align no)")
    if mode == AUTO:
        try:
            finder = detector.load()
        except ValueError as error:
            return People(dataset.root, f"not looked for: {error}")
        sample = look_at(dataset.paths, finder)
        if not sample.is_judged or sample.is_aligned:
            verdict = "taken for aligned crops" if sample.is_aligned else "read as it is"
            return People(dataset.root, f"{verdict}: {sample}")
        logger.warning(
            "%s: photographs, not aligned crops (%s); they are aligned (--align no: not)", dataset.root, sample
        )
    if accept is not None:
        accept(People(dataset.root, "", detector.load().name, IMAGE_SIZE).facts())
    return _aligned(dataset, detector, jobs)


def look_at(paths: Sequence[Path], finder: Finder) -> Sample:
    """Return what a detector says of SAMPLE of the images, spread evenly."""
    if isinstance(finder, GivenPoints):
        return Sample(0, 0, float("nan"))
    offs, num_images = [], 0
    for place in np.unique(np.linspace(0, len(paths) - 1, SAMPLE).astype(int)).tolist():
        try:
            image = read_image(paths[place])
        except UnreadableImageError:
            continue
        num_images += 1
        for face in first_look(image, finder)[:1]:
            height, width = image.shape[:2]
            distance = (face.points + 0.5) * IMAGE_SIZE / width - 0.5 - TEMPLATE
            offs.append(float(np.sqrt((distance**2).sum(axis=1).mean())) if width == height else float("inf"))
    return Sample(num_images, len(offs), float(np.median(offs)) if offs else float("nan"))


def _aligned(dataset: ImageFolderDataset, detector: Choice, jobs: int) -> People:
    photographs = Photographs(dataset.paths)
    name = detector.load().name
    digest = hashlib.sha256(f"{name}\0{dataset.root.resolve()}\0{photographs.state()}".encode()).hexdigest()[:16]
    output = cache_folder() / "aligned" / digest
    while not (output / RECORD).is_file():
        try:
            outcome = align_photographs(AlignJob(dataset.paths, output, detector, jobs=jobs))
            logger.info("%s: %s", dataset.root, "; ".join(summary(outcome)))
        except BusyError:
            time.sleep(_WAIT)
    counts = json.loads((output / RECORD).read_text(encoding="utf-8"))["counts"]
    text = f"{counts[ALIGNED]} of {counted(counts['done'], 'photograph')} aligned by {name} into {output}"
    if counts[ALIGNED] < counts["done"]:
        logger.warning("%s: %s; the others are left out, alignment.csv there says why", dataset.root, text)
    return People(output, text, name, IMAGE_SIZE)


def _read_record(root: Path) -> People | None:
    """Return what `main.py align` noted of its result, None of any other folder."""
    file = root / RECORD
    if not file.is_file():
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        detector, size = str(record["detector"]), int(record["size"])
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{file}: not what `main.py align` writes ({error}); remove it or align again") from error
    if size % IMAGE_SIZE:
        raise ValueError(
            f"{root}: crops of {size} x {size} have another template than networks of {IMAGE_SIZE} x {IMAGE_SIZE};"
            f" align again with --size {IMAGE_SIZE}"
        )
    return People(root, f"aligned by {detector}, crops of {size} x {size}", detector, size)


def detector_of_crop(path: Path) -> str | None:
    """Return by which detector `main.py align` cut out a file, None of any other file.

    Raises:
        ValueError: if the note that it left there is damaged, or the crops have another template than networks here.
    """
    for folder in path.absolute().parents[:_DEPTH]:
        if made := _read_record(folder):
            return made.detector
    return None
