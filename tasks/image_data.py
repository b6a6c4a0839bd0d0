"""Images that are trained on and labeled pairs that are reported on: what the data of every task on faces share."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

from torch.utils.data import DataLoader

from config import Config, PretrainingConfig
from datasets import (
    Benchmark,
    FaceDataset,
    ImageFolderDataset,
    LabeledFaces,
    PairDataset,
    PairSample,
    Sample,
    UnreadableImageError,
    has_pairs,
    pair_reader,
    shard_pairs,
    warn_of_unaligned,
)
from datasets.faces.folder_scan import is_flat
from datasets.photos.people import open_people
from engine.module import TrainingData
from models.detectors import DetectorChoice
from options.names import PAIRS, SOURCES, registered

logger = logging.getLogger(__name__)


class ImageData(TrainingData):
    """Images in training and pairs in validation; a subclass opens both in `setup`, and gives what trains.

    Args:
        config: options of the run.
        world_size: ranks that will share each batch.
    Attributes:
        benchmarks: the sets that validation and test score, in a fixed order, after `setup`.
        alignment: what was aligned, by which detector to which template; empty where there is no folder of people.
        unreadable: why an image could not be read, by its path, of those that training met so far.
    """

    def __init__(self, config: Config | PretrainingConfig, world_size: int) -> None:
        super().__init__(config)
        self.world_size = world_size
        self.benchmarks: list[Benchmark] = []
        self.alignment: dict[str, object] = {}
        self._train: LabeledFaces | None = None

    @property
    def config(self) -> Config | PretrainingConfig:
        """Return the options of the run."""
        return cast("Config | PretrainingConfig", self.options)

    @property
    def train_dataset(self) -> LabeledFaces:
        """Return the training images, without transforms."""
        if self._train is None:
            raise RuntimeError(f"{type(self).__name__}: call setup() before reading train_dataset")
        return self._train

    @property
    def num_validated(self) -> int:
        """Return the pairs of all benchmarks."""
        return sum(len(benchmark) for benchmark in self.benchmarks)

    def source(self, number: int) -> FaceDataset:
        """Return the data set with this number among those of the training, whose files have names."""
        return cast(FaceDataset, self.train_dataset)

    def pair_loader(self, occlusion: tuple[str, ...], passes: int) -> DataLoader:
        """Return the loader of all benchmark pairs, sharded over the ranks without padding.

        Args:
            occlusion: what occludes the third image of a pair, if anything does.
            passes: images that a pair puts through the network, mirrored ones too; a rank's batch holds as many as one
                of training.
        """
        pairs = PairDataset(self.benchmarks, occlusion, self.config.seed)
        batch_size = max(1, self.config.batch_size // self.world_size // passes)
        rank = self.trainer.global_rank if self.trainer else 0
        batches = shard_pairs(len(pairs), batch_size, rank, self.world_size)
        return DataLoader(pairs, batch_sampler=batches, **self.loader_options(persistent=False))

    def on_before_batch_transfer(self, batch: Sample | PairSample, dataloader_idx: int) -> Sample | PairSample:
        """Note the images that could not be read, while their indices are still on the host."""
        if isinstance(batch, Sample):
            for view in (batch, batch.second):
                if view is not None:
                    met = view.unreadable >= 0
                    for number, index in zip(view.dataset_id[met].tolist(), view.unreadable[met].tolist(), strict=True):
                        self._note(self.source(number), index)
        return batch

    def _note(self, dataset: FaceDataset, index: int) -> None:
        path = str(dataset.paths[index])
        if path in self.unreadable:
            return
        try:  # the worker that met it handed over its position alone
            read = pair_reader(dataset, False, "ImageData") if has_pairs(dataset) else dataset.read
            read(index)
            self.unreadable[path] = "could be read at the second attempt"
        except UnreadableImageError as error:  # of a pair it may be the partner
            self.unreadable[path] = error.reason if str(error.path) == path else str(error)
        logger.warning("unreadable image %s (%s): another image took its place", path, self.unreadable[path])


def open_faces(
    config: Config | PretrainingConfig,
    folder: Path,
    num_workers: int,
    is_embedded: bool = False,
    may_be_flat: bool = False,
) -> tuple[FaceDataset, dict[str, object]]:
    """Return the images of a folder as the options say that they lie there, photographs aligned, and how they were.

    Args:
        config: options of the set.
        folder: that holds them.
        num_workers: processes that align.
        is_embedded: whether they are the synthetic faces, of which nothing is looked at.
        may_be_flat: images without folders of identities are all of one.
    Raises:
        ValueError, OSError: one line that says what is wrong with which path or flag.
    """
    options: dict[str, Any] = {"follow_links": config.follow_links} if config.source in ("folder", PAIRS) else {}
    if may_be_flat and config.source == "folder" and is_flat(folder):
        options["only"] = folder.resolve().name
        folder = folder.resolve().parent
    if config.source == PAIRS and isinstance(config, Config):
        options["partner"] = config.partner
    read = registered(SOURCES[config.source])
    try:
        dataset: FaceDataset = read(folder, swap_color_channel=config.swap_color_channel, **options)
    except ValueError as error:
        if config.source == "folder" and (folder / "train.rec").exists():
            raise ValueError(f"{folder} holds a record file, train.rec: --use_mxrecord reads it") from error
        raise
    facts: dict[str, object] = {}
    if not is_embedded:
        if isinstance(dataset, ImageFolderDataset):
            dataset, facts = align_people(config, dataset, num_workers)
        warn_of_unaligned(dataset)
    return dataset, facts


def align_people(
    config: Config | PretrainingConfig, dataset: ImageFolderDataset, num_workers: int
) -> tuple[ImageFolderDataset, dict[str, object]]:
    """Return a folder of people, or crops of it where it holds photographs, as --align says, and how they were made."""
    crops, people = open_people(dataset, config.align, DetectorChoice(config.detector), max(1, num_workers))
    return crops, people.facts()
