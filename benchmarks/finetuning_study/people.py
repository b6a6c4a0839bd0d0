"""Who the study trains on and tests on: drawn people, and the real ones of a folder that the user names.

Training images of drawn people are written once below the folder of all runs, where the programs read them.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

import transforms
from datasets import Image, ImageFolderDataset
from datasets.synthetic.prepare import render_identities
from system.files import write_text

SIDES = (24, 16, 12, 8)  # pixels of the LR images that are tested
SETS = ("clean", "masked", "low")
TRAIN, TEST = (60, 10), (40, 5)  # drawn people, images of each
_SHARED = 20  # people of a mixture's set who are in the others too
_MASKS, _LOW_SIDE = ("surgical", "cloth"), 16
_DRAWS = 3  # of the degradation, for each test image
_TEST_SHARE = 4  # one in so many real people is tested on


class Views(NamedTuple):
    """N test images of people whom no training has seen: labels int64 [N], HR, and by side draws of LR images.

    All images are uint8 [N, 112, 112, 3] RGB, aligned; those at a low resolution are enlarged.
    """

    labels: NDArray[np.int64]
    hr: Image
    lr: Mapping[int, Sequence[Image]]


def degraded(labels: NDArray[np.int64], hr: Image) -> Views:
    """Return images with their degraded ones: blur, shrinking, noise and JPEG by (side, draw, place) alone."""
    lr = {
        side: [
            _each(hr, partial(_degrade, transforms.FirstOrder((side, side)), (side, draw))) for draw in range(_DRAWS)
        ]
        for side in SIDES
    }
    return Views(labels, hr, lr)


def _each(images: Image, change: Callable[[Image, int], Image]) -> Image:
    return np.stack([change(image, place) for place, image in enumerate(images)])


def _degrade(degradation: transforms.Degradation, key: tuple[int, ...], image: Image, place: int) -> Image:
    return degradation(image, np.random.default_rng((*key, place))).image


def synthetic_views() -> Views:
    """Return drawn people of the test."""
    hr, labels = render_identities("finetuning-test", *TEST)
    return degraded(labels, hr)


def training_folder(root: Path) -> Path:
    """Return the folder of the drawn people on whom the small network is fine-tuned."""
    return _written(root / "finetuning-data/faces", _write_people_to_tune_on)


def _write_people_to_tune_on(folder: Path) -> None:
    _write_people(folder, *render_identities("finetuning-train", *TRAIN))


class RealPeople:
    """A folder of aligned crops, one folder a person: the last quarter, in the order of their numbers, is tested on.

    Args:
        faces: the folder.
    Raises:
        ValueError: if there are fewer than 8 people, of whom 2 could be tested on.
    """

    def __init__(self, faces: Path) -> None:
        self._dataset = ImageFolderDataset(faces)
        names = self._dataset.class_names
        if len(names) < 2 * _TEST_SHARE:
            raise ValueError(f"--faces {faces}: {len(names)} people; {2 * _TEST_SHARE} are the least")
        order = sorted(range(len(names)), key=lambda label: (_numbers(str(names[label])), str(names[label])))
        self.tested = np.array(order[len(names) - len(names) // _TEST_SHARE :])

    def write_positions(self, path: Path) -> Path:
        """Write the positions of the images to train on, as --train_data_subset reads them; return the path."""
        path.parent.mkdir(parents=True, exist_ok=True)
        positions = np.flatnonzero(~np.isin(self._dataset.labels, self.tested))
        write_text(path, " ".join(map(str, positions.tolist())) + "\n")
        return path

    def views(self) -> Views:
        """Return the images of those who are tested on."""
        places = np.flatnonzero(np.isin(self._dataset.labels, self.tested))
        return degraded(self._dataset.labels[places], np.stack([self._dataset.read(int(place)) for place in places]))


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", name))


def mixture_folders(root: Path) -> dict[str, Path]:
    """Return by set the folder of its training people, and as "all" those of the three in one label space.

    People are called person_00 and so on in each set, whoever they are: a number means different people, and a third of
    the people are in all three sets under three numbers.
    """
    folder = _written(root / "finetuning-data/mixture", _write_mixture)
    return {name: folder / name for name in (*SETS, "all")}


def _write_mixture(folder: Path) -> None:
    num, per_person = TRAIN
    own = num - _SHARED
    images, _ = render_identities("mixture-train", _SHARED + len(SETS) * own, per_person)
    for number, name in enumerate(SETS):
        people = np.concatenate([np.arange(_SHARED), _SHARED + number * own + np.arange(own)])
        people = np.roll(people, number * _SHARED)
        of_set = images[(people[:, None] * per_person + np.arange(per_person)).ravel()]
        _write_people(folder / name, seen_as(name, of_set), np.repeat(np.arange(num), per_person))
        for person in sorted((folder / name).iterdir()):
            shutil.copytree(person, folder / "all" / f"{name}_{person.name}", copy_function=os.link)


def seen_as(name: str, images: Image) -> Image:
    """Return images as a set of the mixture has them: as they are, behind a mask, or degraded to 16 pixels."""
    if name == "masked":
        generators = (np.random.default_rng((1, place)) for place in range(len(images)))
        return transforms.occlude_all(images, generators, _MASKS)[0]
    if name == "low":
        return _each(images, partial(_degrade, transforms.FirstOrder((_LOW_SIDE, _LOW_SIDE)), (2,)))
    return images


def mixture_views() -> dict[str, tuple[NDArray[np.int64], Image]]:
    """Return by set (labels, images) of drawn people of the test."""
    images, labels = render_identities("mixture-test", *TEST)
    return {name: (labels, seen_as(name, images)) for name in SETS}


def _written(folder: Path, write: Callable[[Path], None]) -> Path:
    """Return a folder, which appears as a whole: where it is not there, it is written and gets its name at the end."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix="."))
        write(unfinished)
        unfinished.rename(folder)
    return folder


def _write_people(folder: Path, images: Image, labels: NDArray[np.int64]) -> None:
    for place, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        person = folder / f"person_{label:02d}"
        person.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(person / f"{place:04d}.png"), image[..., ::-1]):
            raise OSError(f"{person}: an image cannot be written; is the disk full?")
