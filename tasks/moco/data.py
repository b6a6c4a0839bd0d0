"""The data module of pretraining: images without labels, two views of each, and labeled sets for a report."""

from __future__ import annotations

import hashlib
import logging
import os
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
from torch.utils.data import DataLoader

from config import PretrainingConfig
from datasets import FaceDataset, PlannedSampler, collate
from datasets.benchmarks.sets import open_sets
from datasets.faces.paired_view import PairedBatches, PairedView, Partners
from datasets.sampling.windows import shuffled_batches
from datasets.synthetic.prepare import SyntheticSpec, prepare_synthetic
from tasks.image_data import ImageData, open_faces
from tasks.moco.votes import SetVotes
from transforms.two_views import TwoViews

logger = logging.getLogger(__name__)
FAST_IDENTITIES = 16  # of the embedded faces with --fast_dev_run


class PretrainingData(ImageData):
    """Images for momentum contrast; their labels are not looked at.

    Args:
        config: options of the run.
        world_size: ranks that will share each batch.
    Attributes:
        partners: epoch -> which image makes the second view of each; None, or a result of None: the image itself.
        benchmarks, alignment, unreadable: see `ImageData`.
        votes: of the nearest images in the labeled sets, after `setup`.
        synthetic: whether these sets are embedded synthetic faces: they never are.
    Raises:
        ValueError, OSError: from `setup`, one line that says what is wrong with which path or flag.
    """

    synthetic = False

    def __init__(self, config: PretrainingConfig, world_size: int = 1) -> None:
        super().__init__(config, world_size)
        self.partners: Partners | None = None
        self.votes = SetVotes(())

    @property
    def config(self) -> PretrainingConfig:
        """Return the options of the run."""
        return cast(PretrainingConfig, self.options)

    @property
    def train_dataset(self) -> FaceDataset:
        """Return the training images, without transforms."""
        return cast(FaceDataset, super().train_dataset)

    @property
    def num_images(self) -> int:
        """Return how many images there are."""
        return len(self.train_dataset)

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
        embedded = config.data_root is None
        self._train, self.alignment = open_faces(config, self._folder(), self.num_workers, embedded, may_be_flat=True)
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
        return DataLoader(view, batch_sampler=batches, collate_fn=collate, **self.loader_options(persistent=True))

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
        """Return the loader of the labeled pairs: two images each, with their mirror images; none without sets."""
        if not self.benchmarks:
            return []
        return self.pair_loader((), passes=4)

    # ---------------------------------------------------------------- what others ask

    def facts(self) -> dict[str, object]:
        """Return the number of images and a digest of their names."""
        return {"images": self.num_images, "names (SHA-256)": self.images}

    def check_place(self, place: dict[str, int]) -> None:
        """Refuse a place in the data, as `state_dict` gives it, that lies outside an epoch of these data.

        Raises:
            ValueError: if it does.
        """
        self.build_sampler(rank=0).load_state_dict(place)
