"""The data module of detection: photographs with labeled faces, in views for training and whole for validation."""

from __future__ import annotations

import hashlib
import logging
import os
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from torch.utils.data import DataLoader, Dataset

from config import DetectionConfig
from datasets import (
    DetectionBatch,
    DetectionViews,
    LabeledPhotos,
    PlannedBatches,
    ShuffleBatchSampler,
    UnreadableImageError,
    collate_detections,
    read_labels,
    shard_pairs,
)
from datasets.detection.photos import DetectionView
from datasets.photos.views import Look, view
from datasets.synthetic.scene_set import SPLITS, SceneSpec, prepare_scenes
from engine.module import TrainingData
from transforms import DetectionSample, DetectionTransform
from transforms.detection.augment import pad_to_square

logger = logging.getLogger(__name__)
FAST_SCENES = (16, 8)  # trained on and validated on with --fast_dev_run


class _Source(NamedTuple):
    """Where photographs lie, the file of their labels, and the flag that says so."""

    root: Path
    labels: Path
    flag: str


class WholePhotos(Dataset[DetectionView]):
    """Photographs without augmentation, looked at as `main.py detect evaluate` does and filled up to one square.

    Larger ones are shrunk, smaller ones keep their size; boxes that leave the photograph stay as labeled, as in
    WIDER FACE's published evaluation.

    Args:
        photos: where they are read.
        size: side in pixels of the square.
    """

    def __init__(self, photos: LabeledPhotos, size: int) -> None:
        self.photos = photos
        self.size = size

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> DetectionView:
        """Return a photograph, which lies at the upper left; raises UnreadableImageError."""
        image, faces = self.photos.read(index)
        height, width = image.shape[:2]
        seen, _ = view(image, Look(""), min(1.0, self.size / max(height, width)))
        moved = faces.moved((seen.shape[1] / width, seen.shape[0] / height), 0.0)
        return DetectionView(*pad_to_square(DetectionSample(seen, moved), self.size), index, -1)


class DetectionData(TrainingData):
    """Photographs for a detector.

    Args:
        config: options of the run.
        world_size: ranks that will share each batch.
    Raises:
        ValueError, OSError: from `setup`, one line that says what is wrong with which path or flag.
    """

    def __init__(self, config: DetectionConfig, world_size: int = 1) -> None:
        super().__init__(config)
        self.world_size = world_size
        self.val_dataset: LabeledPhotos | None = None
        self._train: LabeledPhotos | None = None

    @property
    def config(self) -> DetectionConfig:
        """Return the options of the run."""
        return cast(DetectionConfig, self.options)

    @property
    def train_dataset(self) -> LabeledPhotos:
        """Return the photographs that are trained on."""
        if self._train is None:
            raise RuntimeError("DetectionData: call setup() before reading train_dataset")
        return self._train

    @cached_property
    def names(self) -> str:
        """Return a digest of the names of the photographs, in their order."""
        digest, photos = hashlib.sha256(), self.train_dataset
        for index in range(len(photos)):
            digest.update(os.fsencode(photos.labels(index).name) + b"\0")
        return digest.hexdigest()

    @property
    def num_faces(self) -> int:
        """Return how many faces are learned from."""
        return _num_counted(self.train_dataset)

    def setup(self, stage: str | None = None) -> None:
        """Read the labels and look for the photographs."""
        if self._train is not None:
            return
        config = self.config
        train, val = self._sources()
        self._train = _opened(train)
        try:
            self.build_sampler(rank=0)
        except ValueError as error:
            raise ValueError(f"--batch_size {config.batch_size}: {error}") from error
        if val is not None:
            self.val_dataset = _opened(val)
            _refuse_missing(val, self.val_dataset)
            if len(self.val_dataset) < self.world_size:
                raise ValueError(f"{val.flag}: {len(self.val_dataset)} photographs for {self.world_size} ranks")

    def _sources(self) -> tuple[_Source, _Source | None]:
        config = self.config
        if config.data_root is None:
            counts = (config.synthetic_scenes, config.synthetic_val_scenes)
            if config.fast_dev_run:
                counts = (min(counts[0], FAST_SCENES[0]), min(counts[1], FAST_SCENES[1]))
            folder = prepare_scenes(spec=SceneSpec(*counts))
            train, val = (
                _Source(folder / split, folder / split / "faces.json", "synthetic scenes") for split in SPLITS
            )
            return train, val
        root = Path(config.data_root)
        own = _Source(root, Path(str(config.labels)), "--labels")
        if config.val_labels is None:
            return own, None
        return own, _Source(Path(config.val_data_path or root), Path(config.val_labels), "--val_labels")

    # ---------------------------------------------------------------- loaders

    def build_sampler(self, rank: int) -> ShuffleBatchSampler:
        """Return the sampler of one rank: every photograph once in an epoch, but for the last partial batch."""
        c = self.config
        return ShuffleBatchSampler(len(self.train_dataset), c.batch_size, c.seed, rank, self.world_size)

    def train_dataloader(self) -> DataLoader:
        """Return the loader of training batches, `DetectionBatch`es."""
        sampler = self.train_sampler
        logger.info("training: %s", sampler.summary())
        views = DetectionViews(self.train_dataset, self.training_transform(), self.config.seed)
        options = self.loader_options(persistent=True)
        return DataLoader(views, batch_sampler=PlannedBatches(sampler), collate_fn=collate_detections, **options)

    def training_transform(self) -> DetectionTransform:
        """Return what makes a view."""
        c = self.config
        return DetectionTransform(c.image_size, c.crop_prob, c.color_prob, c.flip_prob, c.least_side)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """Return the loader of the photographs that are validated on, sharded over the ranks; none without labels."""
        if self.val_dataset is None:
            return []
        c, rank = self.config, self.trainer.global_rank if self.trainer else 0
        photos = WholePhotos(self.val_dataset, c.val_size)
        batches = shard_pairs(len(photos), max(1, c.batch_size // self.world_size), rank, self.world_size)
        options = self.loader_options(persistent=False)
        return DataLoader(photos, batch_sampler=batches, collate_fn=collate_detections, **options)

    def on_before_batch_transfer(self, batch: DetectionBatch, dataloader_idx: int) -> DetectionBatch:
        """Note the photographs that could not be read, while their indices are still on the host."""
        for index in batch.unreadable[batch.unreadable >= 0].tolist():
            self._note(index)
        return batch

    def _note(self, index: int) -> None:
        photos = self.train_dataset
        path = str(photos.root / photos.labels(index).name)
        if path in self.unreadable:
            return
        try:  # the worker that met it handed over its position alone
            photos.read(index)
            self.unreadable[path] = "could be read at the second attempt"
        except UnreadableImageError as error:
            self.unreadable[path] = error.reason
        logger.warning("unreadable photograph %s (%s): another one took its place", path, self.unreadable[path])

    # ---------------------------------------------------------------- what others ask

    @property
    def num_validated(self) -> int:
        """Return how many photographs are validated on."""
        return 0 if self.val_dataset is None else len(self.val_dataset)

    def facts(self) -> dict[str, object]:
        """Return the numbers of photographs and faces and a digest of the names."""
        return {"photographs": len(self.train_dataset), "faces": self.num_faces, "names (SHA-256)": self.names}


def _opened(source: _Source) -> LabeledPhotos:
    """Return the photographs of a source.

    Raises:
        ValueError, OSError: if labels or folder are not there or do not fit each other, or no face counts.
    """
    photos = LabeledPhotos(source.root, read_labels(source.labels))
    if not _num_counted(photos):
        raise ValueError(f"{source.flag}: {source.labels} has no face that counts in its {len(photos)} photographs")
    return photos


def _num_counted(photos: LabeledPhotos) -> int:
    return sum(int(np.count_nonzero(~photos.labels(index).faces.ignored)) for index in range(len(photos)))


def _refuse_missing(source: _Source, photos: LabeledPhotos) -> None:
    """Refuse figures of fewer photographs than a file of labels names."""
    names = (photos.labels(index).name for index in range(len(photos)))
    missing = [name for name in names if not (source.root / name).is_file()]
    if missing:
        raise ValueError(
            f"{source.flag}: {source.root} lacks {len(missing)} of the {len(photos)} photographs of {source.labels},"
            f" the first: {missing[0]}"
        )
