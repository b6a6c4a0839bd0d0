"""The data module of pretraining: images without labels, two views of each, and labeled sets for a report."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from config import PretrainingConfig
from datasets import (
    Benchmark,
    FaceDataset,
    ImageFolderDataset,
    PairDataset,
    PairSample,
    PlannedSampler,
    Sample,
    UnreadableImageError,
    collate,
    shard_pairs,
    warn_of_unaligned,
)
from datasets.benchmarks.sets import open_sets
from datasets.faces.folder_scan import is_flat
from datasets.faces.paired_view import PairedBatches, PairedView, Partners
from datasets.photos.people import open_people
from datasets.sampling.windows import shuffled_batches
from datasets.synthetic.prepare import SyntheticSpec, prepare_synthetic
from engine.module import TrainingData
from engine.signals import start_worker
from models.detectors import DetectorChoice
from options.names import SOURCES, TEST_RUN_BATCHES, registered
from system.cores import at_most_cores
from tasks.moco.votes import SetVotes
from transforms.two_views import TwoViews

logger = logging.getLogger(__name__)
FAST_IDENTITIES = 16  # of the embedded faces with --fast_dev_run


class PretrainingData(TrainingData):
    """Images for momentum contrast; their labels are not looked at.

    Args:
        config: options of the run.
        world_size: ranks that will share each batch.
    Attributes:
        partners: epoch -> which image makes the second view of each; None, or a result of None: the image itself.
        benchmarks: labeled sets that a validation reports on, after `setup`.
        votes: of the nearest images in these sets, likewise.
        synthetic: whether these sets are embedded synthetic faces: they never are.
        unreadable: why an image could not be read, by its path.
    Raises:
        ValueError, OSError: from `setup`, one line that says what is wrong with which path or flag.
    """

    synthetic = False

    def __init__(self, config: PretrainingConfig, world_size: int = 1) -> None:
        super().__init__(config)
        self.world_size = world_size
        self.partners: Partners | None = None
        self.benchmarks: list[Benchmark] = []
        self.votes = SetVotes(())
        self._num_workers = at_most_cores(config.num_workers)
        self._train: FaceDataset | None = None

    @property
    def config(self) -> PretrainingConfig:
        """Return the options of the run."""
        return cast(PretrainingConfig, self.options)

    @property
    def train_dataset(self) -> FaceDataset:
        """Return the images, without transforms."""
        if self._train is None:
            raise RuntimeError("PretrainingData: call setup() before reading train_dataset")
        return self._train

    @property
    def num_images(self) -> int:
        """Return how many images there are."""
        return len(self.train_dataset)

    @property
    def num_steps(self) -> int:
        """Return the optimizer steps of the whole run."""
        config, batches = self.config, len(self.build_sampler(rank=0))
        batches = min(batches, TEST_RUN_BATCHES) if config.test_run else batches
        return config.epochs * math.ceil(batches / config.accumulate_grad_batches)

    @cached_property
    def images(self) -> str:
        """Return a digest of the names of the images, in their order: queue and clusters know them by position."""
        digest, paths = hashlib.sha256(), self.train_dataset.paths
        for number in range(len(paths)):
            digest.update(os.fsencode(paths.relative(number)) + b"\0")
        return digest.hexdigest()

    def setup(self, stage: str | None = None) -> None:
        """Open the images and the labeled sets."""
        if self._train is not None:
            return
        config = self.config
        self._train = self._open(self._folder())
        if self.num_images < 2:
            raise ValueError(f"{self._folder()} holds one image: there is nothing to tell it from; give more images")
        if config.batch_size // self.world_size < 2:
            raise ValueError(
                f"--batch_size {config.batch_size}: {self.world_size} ranks get less than 2 images each, and batch norm"
                f" needs 2; give {2 * self.world_size} or more"
            )
        try:
            self.build_sampler(rank=0)
        except ValueError as error:
            raise ValueError(f"--batch_size {config.batch_size}: {error}") from error
        if config.val_data_path is not None:
            try:
                self.benchmarks = open_sets(Path(config.val_data_path))
            except ValueError as error:
                raise ValueError(f"--val_data_path: {error}") from error
            self.votes = SetVotes(self.benchmarks)

    def _folder(self) -> Path:
        config = self.config
        if config.data_root is None:
            people = min(FAST_IDENTITIES, config.synthetic_identities)
            few = {"benchmark_pairs": 40} if config.fast_dev_run else {}
            count = people if config.fast_dev_run else config.synthetic_identities
            root = prepare_synthetic(spec=SyntheticSpec(count, config.synthetic_images, **few))
        else:
            root = Path(config.data_root)
        return root / "train" if (root / "train").is_dir() else root

    def _open(self, folder: Path) -> FaceDataset:
        config = self.config
        options: dict[str, Any] = {"follow_links": config.follow_links} if config.source == "folder" else {}
        if config.source == "folder" and is_flat(folder):
            options["only"] = folder.resolve().name
            folder = folder.resolve().parent
        try:
            dataset: FaceDataset = registered(SOURCES[config.source])(
                folder, swap_color_channel=config.swap_color_channel, **options
            )
        except ValueError as error:
            if config.source == "folder" and (folder / "train.rec").exists():
                raise ValueError(f"{folder} holds a record file, train.rec: --use_mxrecord reads it") from error
            raise
        if config.data_root is None:
            return dataset
        if isinstance(dataset, ImageFolderDataset):
            choice = DetectorChoice(config.detector)
            dataset, _ = open_people(dataset, config.align, choice, max(1, self._num_workers))
        warn_of_unaligned(dataset)
        return dataset

    # ---------------------------------------------------------------- loaders

    def build_sampler(self, rank: int) -> PlannedSampler:
        """Return the sampler of one rank: every image is a query once in an epoch, but for the last partial batch."""
        config = self.config
        return shuffled_batches(self.train_dataset, config.batch_size, config.seed, rank, self.world_size)

    def train_dataloader(self) -> DataLoader:
        """Return the loader of training batches, `Sample`s with a `second`."""
        sampler = self.train_sampler
        logger.info("training: %s", sampler.summary())
        view = PairedView(self.train_dataset, self.training_transform(), self.config.seed)
        batches = PairedBatches(sampler, self._partners_of)
        return DataLoader(view, batch_sampler=batches, collate_fn=collate, **self._loader_options(persistent=True))

    def _partners_of(self, epoch: int) -> np.ndarray | None:
        return None if self.partners is None else self.partners(epoch)

    def training_transform(self) -> TwoViews:
        """Return what makes a view."""
        c = self.config
        return TwoViews(
            crop_area=c.view_crop_area,
            flip_prob=c.view_flip_prob,
            color_prob=c.view_color_prob,
            grayscale_prob=c.view_grayscale_prob,
            blur_prob=c.view_blur_prob,
            low_res_prob=c.view_low_res_prob,
            occlusion_prob=c.view_occlusion_prob,
            occluders=c.occluders,
        )

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """Return the loader of the pairs of the labeled sets, sharded over the ranks; none without sets."""
        if not self.benchmarks:
            return []
        pairs = PairDataset(self.benchmarks, (), self.config.seed)
        batch_size = max(
            1, self.config.batch_size // self.world_size // 4
        )  # two images a pair, and their mirror images
        rank = self.trainer.global_rank if self.trainer else 0
        batches = shard_pairs(len(pairs), batch_size, rank, self.world_size)
        return DataLoader(pairs, batch_sampler=batches, **self._loader_options(persistent=False))

    def _loader_options(self, persistent: bool) -> dict:
        workers = self._num_workers
        return {
            "num_workers": workers,
            "pin_memory": self.config.gpus > 0 and torch.cuda.is_available(),
            "persistent_workers": persistent and workers > 0,
            "prefetch_factor": 4 if workers else None,
            "worker_init_fn": start_worker,
        }

    # ---------------------------------------------------------------- what others ask

    @property
    def num_validated(self) -> int:
        """Return the pairs of all labeled sets."""
        return sum(len(benchmark) for benchmark in self.benchmarks)

    def facts(self) -> dict[str, object]:
        """Return the number of images and a digest of their names."""
        return {"images": self.num_images, "names (SHA-256)": self.images}

    def check_place(self, place: dict[str, int]) -> None:
        """Refuse a place in the data, as `state_dict` gives it, that lies outside an epoch of these data.

        Raises:
            ValueError: if it does.
        """
        self.build_sampler(rank=0).load_state_dict(place)

    def on_before_batch_transfer(self, batch: Sample | PairSample, dataloader_idx: int) -> Sample | PairSample:
        """Note the images that could not be read, while their indices are still on the host."""
        if isinstance(batch, Sample):
            for side in (batch, batch.second):
                found: list[int] = [] if side is None else cast(Tensor, side.unreadable).tolist()
                for index in (index for index in found if index >= 0):
                    self._note(index)
        return batch

    def _note(self, index: int) -> None:
        path = str(self.train_dataset.paths[index])
        if path in self.unreadable:
            return
        try:
            self.train_dataset.read(index)
            self.unreadable[path] = "could be read at the second attempt"
        except UnreadableImageError as error:
            self.unreadable[path] = error.reason
        logger.warning("unreadable image %s (%s): another image took its place", path, self.unreadable[path])
