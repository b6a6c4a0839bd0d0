"""The data module: datasets, samplers and transforms wired into loaders."""

from __future__ import annotations

import hashlib
import logging
import re
import zlib
from pathlib import Path
from typing import cast

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

from config import IMAGES_PER_IDENTITY, MS1MV2_SUBSET, Config
from datasets import (
    Benchmark,
    FaceDataset,
    GraphBatchSampler,
    IdentitySubset,
    ImageFolderDataset,
    ImageSubset,
    PKBatchSampler,
    PlannedBatches,
    PlannedSampler,
    TrainingView,
    cache_benchmark,
    collate,
    find_benchmarks,
    read_indices,
    split_at_random,
    split_identities,
    warn_of_unaligned,
)
from datasets.benchmarks.sets import are_sets, holds_sets, open_sets
from datasets.cohort import Cohort, draw_cohort
from datasets.sampling.windows import shuffled_batches
from datasets.synthetic.prepare import SyntheticSpec, prepare_synthetic
from evaluation.run import MIN_PAIRS, MIN_PEOPLE, describe_folds, folds_of, precision_of, warnings_of
from options.names import DIVISIONS
from tasks.image_data import ImageData
from tasks.recognition.terms import pairs_cross_ranks
from transforms import TrainingTransform

logger = logging.getLogger(__name__)
FAST_PAIRS = 40  # of each embedded benchmark set with --fast_dev_run, which scores one batch
MIN_SUBSET_IMAGES = 5  # of an identity in --train_data_subset, as AdaFace's ablations have it


class FaceDataModule(ImageData):
    """Training faces and benchmark pairs for one run.

    Args:
        config: options of the run.
        world_size: ranks that will share each batch.
        division: of `DIVISIONS`, how people are held out; a run that goes on keeps its own.
    Attributes after `setup`:
        num_classes: identities in training.
        benchmarks: the sets that validation and test score, in a fixed order.
        missing: the names of the five benchmarks that were not found.
        synthetic: whether the faces of the benchmarks are the embedded synthetic ones.
        alignment, unreadable: see `ImageData`.

    Raises:
        ValueError, OSError: from `setup`, one line that says what is wrong with which path or flag.
    """

    def __init__(self, config: Config, world_size: int = 1, division: str = DIVISIONS[-1]) -> None:
        super().__init__(config, world_size)
        self.division = division
        self.holds_out = False  # whether the people of `own` are taken from the training data
        self._trains_on_embedded = config.data_root is None and config.train_data_path is None
        by_path = bool(config.val_sets) and all(Path(name).is_absolute() for name in config.val_sets)
        elsewhere = config.val_data_path is not None or by_path
        self.synthetic = self._trains_on_embedded and not elsewhere
        self.missing: list[str] = []
        self._cohort: Cohort | None = None

    @property
    def config(self) -> Config:
        """Return the options of the run."""
        return cast(Config, self.options)

    @property
    def num_classes(self) -> int:
        """Return the number of training identities."""
        return len(self.train_dataset.class_names)

    @property
    def identities(self) -> str:
        """Return a digest of the names of the training identities, in the order of their labels."""
        names = "\0".join(map(str, self.train_dataset.class_names))
        return hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()

    @property
    def cohort(self) -> Cohort | None:
        """Return the training faces that teach what scores mean, always the same; None where nothing is taught."""
        c = self.config
        wanted = c.score_normalization != "none" and c.qaconv_loss_weight and c.occluders
        if self._cohort is None and self._train is not None and wanted:
            self._cohort = draw_cohort(self._train, c.occluders, c.seed)
        return self._cohort

    def setup(self, stage: str | None = None) -> None:
        """Open the training data and the benchmarks; identities for `own` are held out when there are none.

        With --evaluate the training data are opened only where a part of them is to be held out.
        """
        if self.benchmarks:
            return
        evaluate = self.config.evaluate
        training, sets = self._folders()
        dataset = None if evaluate else self._open(training)
        self.benchmarks, self.missing = self._open_sets(sets, training)
        if dataset is None and not self.benchmarks:
            dataset = self._open(training)
        if dataset is not None:
            self._train = dataset if self.benchmarks else self._hold_out(dataset, training)
            self._check_classes()
        self._describe_validation()
        if not evaluate:
            self._check_pairs()
            self.build_sampler(rank=0)  # refuses a batch that these data cannot fill, before anything is written

    def _folders(self) -> tuple[Path, Path]:
        """Return the folder of the training identities and the folder of the benchmark sets."""
        config = self.config
        given = Path(config.data_root or "")
        if self.synthetic or (self._trains_on_embedded and not config.evaluate):
            pairs = {"benchmark_pairs": FAST_PAIRS} if config.fast_dev_run else {}
            root = prepare_synthetic(spec=SyntheticSpec(config.synthetic_identities, config.synthetic_images, **pairs))
        else:
            root = given if config.data_root else given / (config.train_data_path or "")
        if config.train_data_path:
            training = given / config.train_data_path
        else:
            training = root / "train" if (root / "train").is_dir() else root
        return training, given / config.val_data_path if config.val_data_path else root

    def _open_sets(self, sets: Path, training: Path) -> tuple[list[Benchmark], list[str]]:
        """Return the benchmark sets, none where people are to be held out, and which of the five were not found."""
        config = self.config
        if config.val_sets:
            try:
                return open_sets(sets, () if config.val_sets == ("all",) else config.val_sets), []
            except ValueError as error:
                raise ValueError(f"--val_sets: {error}") from error
        present, missing = find_benchmarks(sets)
        if present:
            return list(present.values()), missing
        # Sets of other names are meant where they alone can be: elsewhere people may be held out as before.
        # An evaluation has a folder of people for what it is, whatever lies beside them.
        has_sets = are_sets if config.evaluate else holds_sets
        if (config.val_data_path or (config.evaluate and sets == training)) and has_sets(sets):
            return open_sets(sets), []
        if not config.val_data_path:
            return [], missing
        fault = f"--val_data_path: {sets} holds none of the sets {', '.join(missing)}, nor another"
        if not config.evaluate:
            raise ValueError(fault)
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", sets.resolve().name).lstrip(".-")[:100] or "people"
        try:
            people = self.aligned(ImageFolderDataset(sets, follow_links=config.follow_links))
            drawn = cache_benchmark(people, name, seed=config.seed)
        except ValueError as error:
            raise ValueError(f"{fault}, and no people to draw pairs of: {error}") from error
        warn_of_unaligned(people)
        return [drawn], []

    def _open(self, training: Path) -> FaceDataset:
        """Return the training images, those of the subset if one is given."""
        config, dataset = self.config, self.open_images(training, is_embedded=self._trains_on_embedded)
        if config.train_data_subset is None:
            return dataset
        path = Path(config.train_data_subset)
        if config.train_data_subset == MS1MV2_SUBSET and not path.exists():
            raise ValueError(
                f"--train_data_subset: {path} is missing; it lists the MS1MV2 images of AdaFace's ablations and lies "
                "in AdaFace's repository (mk-minchul/AdaFace) under the same name: put it there, or name your own file"
            )
        try:
            subset = ImageSubset(dataset, read_indices(path), MIN_SUBSET_IMAGES)
        except ValueError as error:
            raise ValueError(f"--train_data_subset {path}: {error}") from error
        logger.info("--train_data_subset: %d images of %d identities", len(subset), len(subset.class_names))
        return subset

    def _hold_out(self, dataset: FaceDataset, training: Path) -> FaceDataset:
        config = self.config
        if config.val_identities == 0:
            raise ValueError(
                f"--val_identities: 0 and no benchmark set in {training}; hold a share of the identities out"
            )
        split = split_identities if self.division == DIVISIONS[-1] else split_at_random
        counts = np.bincount(dataset.labels)
        try:
            train, held_out = split(len(dataset.class_names), config.val_identities, config.seed, counts)
            self.benchmarks = [cache_benchmark(IdentitySubset(dataset, held_out), name="own", seed=config.seed)]
        except ValueError as error:
            raise ValueError(
                f"{training}: no benchmark set lies there, and a part of the people cannot be held out as one: {error}."
                " Give more people with several images each, or benchmark sets (--val_data_path)"
            ) from error
        self.holds_out = True
        people, images, own = len(held_out), int(counts[held_out].sum()), self.benchmarks[0]
        logger.info(
            "no benchmark set found: %d of %d people (%.1f %%) with %d of %d images (%.1f %%) are held out and "
            "validated as 'own': %d pairs, %d of them genuine",
            people, len(counts), 100 * people / len(counts), images, len(dataset), 100 * images / len(dataset),
            len(own), own.issame.sum(),
        )  # fmt: skip
        return IdentitySubset(dataset, train)

    def _describe_validation(self) -> None:
        for benchmark in self.benchmarks:
            if benchmark.folds is None and not isinstance(folds_of(benchmark), int):
                logger.warning("%s, folds: %s", benchmark.name, describe_folds(benchmark))
        for warning in warnings_of(self.benchmarks):
            logger.warning("%s", warning)
        text, is_enough = precision_of(self.benchmarks, self.config.monitor)
        if is_enough or self.config.evaluate:  # which chooses nothing
            logger.info("validation: %s", text)
        else:
            logger.warning(
                "validation: %s. Fewer than %d pairs or %d people choose best.ckpt by chance: hold out more "
                "(--val_identities), or name a benchmark set (--val_data_path)", text, MIN_PAIRS, MIN_PEOPLE,
            )  # fmt: skip

    def _check_classes(self) -> None:
        expected = self.config.custom_num_class
        if expected is not None and expected != self.num_classes:
            raise ValueError(f"--custom_num_class: {expected} given, but the training data hold {self.num_classes}")

    def _check_pairs(self) -> None:
        """Refuse batches without a pair of two people: the matcher's losses would be 0 in every step."""
        config = self.config
        ranks = 1 if pairs_cross_ranks(config) else self.world_size
        smallest = 2 * IMAGES_PER_IDENTITY * ranks
        if config.qaconv_loss_weight == 0:
            return
        if config.sampler == "shuffle":
            logger.warning(
                "--sampler shuffle: few batches hold two images of a person, from which the matcher learns; use "
                "--sampler pk, or train without the matcher by --qaconv_loss_weight 0"
            )
        if config.batch_size >= smallest:
            return
        share = f"a share of {config.batch_size // ranks} for each of {ranks} ranks" if ranks > 1 else "that"
        across = ", or --cross_rank_pairs" if config.batch_size >= 2 * IMAGES_PER_IDENTITY else ""
        raise ValueError(
            f"--batch_size {config.batch_size}: {share} holds one identity, and the matcher learns from pairs of two;"
            f" give {smallest} or more{across}, or train without the matcher by --qaconv_loss_weight 0"
        )

    # ---------------------------------------------------------------- loaders

    def train_dataloader(self) -> DataLoader:
        """Return the loader of training batches; `SampleKey` keys every random draw."""
        sampler = self.train_sampler
        logger.info("training: %s", sampler.summary())
        view = TrainingView(self.train_dataset, self.training_transform(), self.config.seed)
        return DataLoader(
            view, batch_sampler=PlannedBatches(sampler), collate_fn=collate, **self.loader_options(persistent=True)
        )

    def build_sampler(self, rank: int) -> PlannedSampler:
        """Return the sampler of one rank."""
        config, labels = self.config, self.train_dataset.labels
        sharding = {"seed": config.seed, "rank": rank, "world_size": self.world_size}
        if config.sampler == "graph":
            return GraphBatchSampler(labels, config.batch_size, **sharding)
        if config.sampler == "shuffle":
            return shuffled_batches(self.train_dataset, config.batch_size, **sharding)
        return PKBatchSampler(labels, config.batch_size, epoch_by=config.epoch_by, **sharding)

    def facts(self) -> dict[str, object]:
        """Return the number of training images and a checksum of their labels."""
        labels = np.ascontiguousarray(self.train_dataset.labels)
        return {"images": len(labels), "labels (CRC-32)": zlib.crc32(labels.data)}

    def check_place(self, place: dict[str, int], table: Tensor | None) -> None:
        """Refuse a place in the data, as `state_dict` gives it, or a table of neighbours that is none of these data's.

        Raises:
            ValueError: if the place lies outside an epoch, or the table does not fit.
        """
        sampler = self.build_sampler(rank=0)
        sampler.load_state_dict(place)
        if table is not None and isinstance(sampler, GraphBatchSampler):
            sampler.set_neighbours(table)

    def training_transform(self) -> TrainingTransform:
        """Return the augmentation of the training images."""
        c = self.config
        return TrainingTransform(
            occluders=c.occluders,
            occlusion_prob=c.occlusion_prob if c.occluders else 0.0,
            low_res_prob=c.low_res_augmentation_prob,
            crop_prob=c.crop_augmentation_prob,
            photometric_prob=c.photometric_augmentation_prob,
            grayscale_prob=c.grayscale_augmentation_prob,
        )

    def val_dataloader(self) -> DataLoader:
        """Return the loader of all benchmark pairs: three images each, with their mirror images."""
        return self.pair_loader(self.config.val_occlusion, passes=6)

    test_dataloader = val_dataloader
