"""Sets to be searched: probes of people among a gallery, with or without strangers: TinyFace, ROF, RMFRD."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from datasets.benchmarks.mlfw import refuse_missing
from datasets.faces.folder_scan import FolderScan, is_image
from datasets.faces.images import fit_image, read_image
from datasets.faces.paths import PathTable
from datasets.sample import Image

DISTRACTOR = -1  # in `labels`: nobody among the probes
_TINYFACE = ("Probe", "Gallery_Match", "Gallery_Distractor")
_NUMBER = re.compile(r"(\d+)_")
_ROF_ENDINGS = {"masked": "_wearing_mask", "sunglasses": "_wearing_sunglasses"}  # of the folders of people


@dataclass(eq=False)
class SearchSet:
    """Images, people, and which are searched for in which.

    Attributes:
        name: of the set.
        paths: file of every image.
        labels: int64 [M], number of the person, DISTRACTOR for images of unknown people.
        class_names: of the people, by number.
        gallery: int64, places of the images that are searched in.
        gallery_kind: which images they are, in a word.
        probes: by kind, int64 places of the images that are searched for.
        facts: what a report says of the reading.
    """

    name: str
    paths: PathTable
    labels: NDArray[np.int64]
    class_names: list[str]
    gallery: NDArray[np.int64]
    gallery_kind: str
    probes: Mapping[str, NDArray[np.int64]]
    facts: Mapping[str, str]
    decoding: str = "fitted"

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Image:
        """Return one image as uint8 [112, 112, 3] RGB.

        Raises:
            UnreadableImageError: if the file cannot be decoded.
        """
        return fit_image(read_image(self.paths[index]))

    def checksum(self) -> str:
        """Return what tells which images of whom are searched for in which; pixels do not count."""
        names = "\n".join(self.paths.relative(place) for place in range(len(self)))
        parts = [names.encode(errors="surrogateescape"), self.labels.tobytes(), self.gallery.tobytes()]
        parts += [kind.encode() + places.tobytes() for kind, places in self.probes.items()]
        return f"crc32:{zlib.crc32(b''.join(parts)):08x}"


def opener_of_search(path: Path) -> Callable[[Path], SearchSet] | None:
    """Return what opens a set in one of the layouts below; None if the path is laid out otherwise."""
    if _tinyface_root(path) is not None:
        return open_tinyface
    if all((path / name).is_dir() for name in ("AFDB_face_dataset", "AFDB_masked_face_dataset")):
        return open_rmfrd
    if _rof_root(path) is not None:
        return open_rof
    return None


def open_tinyface(path: Path) -> SearchSet:
    """Open TinyFace's test set: `Probe/` and `Gallery_Match/` (and `Gallery_Distractor/`), or a folder of them.

    Names begin with the number of the person and `_`. Where `probe_img_ID_pairs.mat` and
    `gallery_match_img_ID_pairs.mat` lie beside them, or one folder up, they say which images take part and of whom.
    Distractors are searched in, each image by itself, and may lie in folders within theirs. The published set has 3,728
    probes, 4,443 matches and 153,428 distractors; its own evaluation reads `probe_set`, `probe_ids`, `gallery_set` and
    `gallery_ids` of the two lists, and gives every distractor an id that no probe has.

    Raises:
        ValueError: if a list names images that are not there, or an image has no number; one line.
    Reference: Cheng, Zhu, Gong, "Low-Resolution Face Recognition", ACCV 2018; read likewise by AdaFace's
        validation_lq (github.com/mk-minchul/AdaFace).
    """
    root = _tinyface_root(path)
    assert root is not None
    probe = _tinyface_part(root, "Probe", "probe")
    match = _tinyface_part(root, "Gallery_Match", "gallery_match")
    folder = root / "Gallery_Distractor"
    distractors = sorted(str(file.relative_to(root)) for file in folder.rglob("*") if is_image(file))
    people = [*probe.values(), *match.values()]
    numbers = sorted(set(people))
    labels = np.append(np.searchsorted(numbers, people), np.full(len(distractors), DISTRACTOR))
    places = np.arange(len(labels))
    return SearchSet(
        "tinyface",
        PathTable(root, [*probe, *match, *distractors]),
        labels.astype(np.int64),
        [str(number) for number in numbers],
        places[len(probe) :],
        "matches and distractors" if distractors else "matches",
        {"probe": places[: len(probe)]},
        {"distractors": f"{len(distractors):,}" if distractors else "none: the published protocol has 153,428"},
    )


def open_rof(path: Path) -> SearchSet:
    """Open ROF: `neutral/`, `masked/` and `sunglasses/`, or a folder of them; neutral images are the gallery.

    Each has a folder a person, which the authors' download.py calls `<person>`, `<person>_wearing_mask` and
    `<person>_wearing_sunglasses`, and puts into `images/`; folders of one name are one person's too.

    Raises:
        ValueError: if a folder holds no people.
    Reference: Erakin, Demir, Ekenel, "On Recognizing Occluded Faces in the Wild", BIOSIG 2021; its files:
        github.com/ekremerakin/RealWorldOccludedFaces.
    """
    root = _rof_root(path)
    assert root is not None
    kinds = {name: name for name in _ROF_ENDINGS if (root / name).is_dir()}
    return _by_kind(root, "rof", ("neutral", "neutral"), kinds, _ROF_ENDINGS)


def _rof_root(path: Path) -> Path | None:
    for root in (path, path / "images"):
        if (root / "neutral").is_dir() and any((root / name).is_dir() for name in _ROF_ENDINGS):
            return root
    return None


def open_rmfrd(path: Path) -> SearchSet:
    """Open RMFRD: `AFDB_face_dataset/` is the gallery, `AFDB_masked_face_dataset/` the probes, a folder a person each.

    Both lie in `self-built-masked-face-recognition-dataset/` of the published archive. People of one folder alone are
    strangers there, or are never looked for.

    Raises:
        ValueError: if a folder holds no people.
    Reference: Wang et al., "Masked Face Recognition Dataset and Application", arXiv:2003.09093; its files:
        github.com/X-zhangyang/Real-World-Masked-Face-Dataset.
    """
    return _by_kind(path, "rmfrd", ("AFDB_face_dataset", "without a mask"), {"masked": "AFDB_masked_face_dataset"})


def _by_kind(
    path: Path,
    name: str,
    searched: tuple[str, str],
    probes: Mapping[str, str],
    endings: Mapping[str, str] = MappingProxyType({}),
) -> SearchSet:
    """Return the set of folders of people.

    Args:
        path, name: of the set.
        searched: folder of the gallery, and what its images are in a word.
        probes: folder of each kind of probe.
        endings: what a folder appends to the names of its people.
    """
    gallery, kind_of_gallery = searched
    scans = {folder: FolderScan(path / folder).images for folder in (gallery, *probes.values())}
    images = {
        folder: [
            (person.removesuffix(endings.get(folder, "")), f"{folder}/{person}/{file}")
            for person, files in people.items()
            for file in files
        ]
        for folder, people in scans.items()
    }
    listed = [entry for entries in images.values() for entry in entries]
    names = sorted({person for person, _ in listed})
    ends = np.cumsum([len(entries) for entries in images.values()])
    places = dict(zip(images, np.split(np.arange(len(listed)), ends[:-1]), strict=True))
    return SearchSet(
        name,
        PathTable(path, [file for _, file in listed]),
        np.searchsorted(names, [person for person, _ in listed]).astype(np.int64),
        names,
        places[gallery],
        kind_of_gallery,
        {kind: places[folder] for kind, folder in probes.items()},
        {},
    )


def _tinyface_root(path: Path) -> Path | None:
    candidates = (path, path / "Testing_Set")
    return next((root for root in candidates if all((root / name).is_dir() for name in _TINYFACE[:2])), None)


def _tinyface_part(root: Path, folder: str, name: str) -> dict[str, int]:
    """Return {path below the root: person} of one folder."""
    places = (root / f"{name}_img_ID_pairs.mat", root.parent / f"{name}_img_ID_pairs.mat")
    file = next((place for place in places if place.is_file()), None)
    if file is not None:
        listed = _read_mat(file, "probe" if name == "probe" else "gallery")
        refuse_missing(file, root / folder, [*listed])
        return {f"{folder}/{image}": person for image, person in listed.items()}
    people = {}
    for image in sorted(entry.name for entry in (root / folder).iterdir() if is_image(entry)):
        number = _NUMBER.match(image)
        if number is None:
            raise ValueError(f"{root / folder / image}: its name does not begin with the number of a person and '_'")
        people[f"{folder}/{image}"] = int(number[1])
    if not people:
        raise ValueError(f"{root / folder}: no images in it")
    return people


def _read_mat(file: Path, prefix: str) -> dict[str, int]:
    """Return {image: person} of a list in MATLAB's format: `<prefix>_set`, cells of names, and `<prefix>_ids`."""
    try:
        content = loadmat(file, variable_names=[f"{prefix}_set", f"{prefix}_ids"])
        names = [_text(cell) for cell in content[f"{prefix}_set"].ravel()]
        people = [int(number) for number in content[f"{prefix}_ids"].ravel()]
        listed = dict(zip(names, people, strict=True))
    except Exception as error:  # scipy raises many kinds on damaged files
        wanted = f"{prefix}_set and {prefix}_ids"
        raise ValueError(f"{file}: no list of images and people ({wanted}) can be read ({error})") from error
    if not listed or any("/" in name or "\\" in name or name.startswith(".") for name in listed):
        raise ValueError(f"{file}: it should name images of its folder, and does not")
    return listed


def _text(cell: object) -> str:
    while isinstance(cell, np.ndarray | Sequence) and not isinstance(cell, str):
        cell = cell[0]
    return str(cell)
