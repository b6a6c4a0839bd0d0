"""A benchmark set as a folder of identities with the list of its pairs, as LFW is published."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from datasets.benchmarks.benchmark_folder import PairStream
from datasets.benchmarks.converted import Source
from datasets.benchmarks.mlfw import is_mlfw
from datasets.benchmarks.pair_files import read_pairs
from datasets.benchmarks.pairs import Pairs
from datasets.faces.folder_scan import PAIR_FILES
from datasets.faces.image_folder import ImageFolderDataset


def is_pair_folder(folder: Path) -> bool:
    """Return whether a list of pairs lies in a folder of identities: MLFW's lies beside one of images."""
    return any((folder / name).is_file() for name in PAIR_FILES) and not is_mlfw(folder)


def open_pair_folder(folder: Path) -> Source:
    """Return the set in `<folder>/<identity>/<image>` whose pairs are in `pairs.txt` or `pairs.csv`; see `read_pairs`.

    Folds that the list defines are kept. Images are decoded to RGB and resized where they are not 112 x 112. One that
    cannot be decoded raises UnreadableImageError when its turn comes.

    Raises:
        ValueError: naming file and line, if the folder or the list is damaged.
    """
    name = next(name for name in PAIR_FILES if (folder / name).is_file())
    dataset = ImageFolderDataset(folder)
    pairs = read_pairs(folder / name, dataset)
    used = np.union1d(pairs.first, pairs.second).tolist()
    names = [name, *(dataset.paths.relative(index) for index in used)]
    return Source(folder, names, [name], partial(_read, dataset, pairs))


def _read(dataset: ImageFolderDataset, pairs: Pairs) -> PairStream:
    members = np.stack([pairs.first, pairs.second], axis=1)
    identities = dataset.labels[members]
    # The list decides; where it contradicts the folders, these say nothing about who is who.
    consistent = np.array_equal(identities[:, 0] == identities[:, 1], pairs.issame)
    images = (dataset.read(index) for index in members.ravel().tolist())
    return PairStream(images, members.size, pairs.issame, pairs.folds, identities.ravel() if consistent else None)
