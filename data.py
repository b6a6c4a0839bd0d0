"""The data module: data sets, samplers and transforms wired into loaders."""

from __future__ import annotations

import logging
import zlib
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from config import IMAGES_PER_IDENTITY, Config
from datasets import (
    Curriculum,
    CurriculumMix,
    EvaluationViews,
    FaceDataset,
    GraphBatchSampler,
    MixedView,
    MixtureBatchSampler,
    PKBatchSampler,
    PlannedBatches,
    PlannedSampler,
    Sample,
    collate,
    ease_of,
    mixture_weights,
    read_merged_identities,
)
from datasets.cohort import Cohort, draw_cohort
from datasets.faces.joined import JoinedFaces
from datasets.sampling.windows import shuffled_batches
from evaluation.run import MIN_PAIRS, MIN_PEOPLE, describe_folds, folds_of, precision_of, warnings_of
from models import Alignment
from options.names import DIVISIONS, NO_CURRICULUM, ONLY_DATASET
from tasks.image_data import ImageData
from tasks.recognition.face_set import FaceSet
from tasks.recognition.head_start import Span
from tasks.recognition.mixture_picture import EASE
from tasks.recognition.score_matrix import MergedPeople, pairs_cross_ranks

logger = logging.getLogger(__name__)


class FaceDataModule(ImageData):
    """Training faces of one or several data sets, and benchmark pairs, for one run.

    Args:
        config: options of the run.
        world_size: ranks that will share each batch.
        division: of `DIVISIONS`, how people are held out; a run that goes on keeps its own.
    Attributes after `setup`:
        sets: the training sets by name, in the order of their numbers.
        benchmarks: the sets that validation and test score, in a fixed order.
        missing: the names of the five benchmarks that were not found.
        watched: both views of people who are not trained on, by their set; none where training has one view.
        unreadable: see `ImageData`.

    Raises:
        ValueError, OSError: from `setup`, one line that says what is wrong with which path or flag.
    """

    def __init__(self, config: Config, world_size: int = 1, division: str = DIVISIONS[-1]) -> None:
        super().__init__(config, world_size)
        self.division = division
        self.sets = {
            name: FaceSet(options, name if config.data else None, division, self.num_workers)
            for name, options in config.by_set().items()
        }
        self.missing: list[str] = []
        self.watched: dict[str, EvaluationViews] = {}
        self._validated = self.sets  # where the people are whom validations are about
        self._cohort: Cohort | None = None

    @property
    def config(self) -> Config:
        """Return the options of the run."""
        return cast(Config, self.options)

    @property
    def classes(self) -> dict[str, int]:
        """Return the number of training identities of each set."""
        return {name: each.num_classes for name, each in self.sets.items()}

    @property
    def num_classes(self) -> int:
        """Return the number of training identities of all sets."""
        return sum(self.classes.values())

    @property
    def identities(self) -> dict[str, str]:
        """Return a digest of the names of the training identities of each set, in the order of their labels."""
        return {name: each.identities for name, each in self.sets.items()}

    @property
    def shares(self) -> dict[str, float]:
        """Return the share of each set in every batch: its weight times its images to the power of --data_balance."""
        given = self.config.data_sets()
        sizes = [len(each.dataset) for each in self.sets.values()]
        shares = mixture_weights(sizes, [each.weight for each in given] or None, self.config.data_balance)
        return dict(zip(self.sets, shares.tolist(), strict=True))

    @cached_property
    def mix(self) -> CurriculumMix:
        """Return the shares of the sets in every batch, and how they and the images drawn change over the epochs."""
        c, first = self.config, [*self.shares.values()]
        given = c.data_sets()
        factors = [1.0 if each.final_weight is None else each.final_weight / each.weight for each in given]
        final = [share * factor for share, factor in zip(first, factors, strict=True)] if given else None
        ease = None
        if c.curriculum != NO_CURRICULUM:
            ease = [ease_of(each.difficulty()) for each in self.sets.values()]
        start, end = c.curriculum_epochs
        course = Curriculum(start, end, c.curriculum_floor, c.curriculum_gamma)
        return CurriculumMix(course, first, final if final != first else None, ease, c.epoch_share)

    @property
    def loss_weights(self) -> dict[str, float]:
        """Return what the mean loss of each set weighs: what --data says, else its share; they sum to 1."""
        weights = self.shares | {
            each.name: each.loss_weight for each in self.config.data_sets() if each.loss_weight is not None
        }
        return {name: weight / sum(weights.values()) for name, weight in weights.items()}

    @property
    def class_shares(self) -> dict[str, Tensor]:
        """Return the share of each class in the images of its set, float64 [classes], by set."""
        counts = {name: np.bincount(each.dataset.labels) for name, each in self.sets.items()}
        return {name: torch.from_numpy(count / count.sum()) for name, count in counts.items()}

    @property
    def holds_out(self) -> bool:
        """Whether people of the training data are held out as a benchmark."""
        return any(each.holds_out for each in self.sets.values())

    @property
    def synthetic(self) -> bool:
        """Whether the faces of the benchmarks are the embedded synthetic ones."""
        return all(each.synthetic for each in self.sets.values())

    def source(self, number: int) -> FaceDataset:
        """Return the training set with this number."""
        return [*self.sets.values()][number].dataset

    @property
    def merged(self) -> MergedPeople | None:
        """Return who is who among the sets, as --merge_identities says; None without it."""
        path = self.config.merge_identities
        if path is None:
            return None
        names = {name: each.dataset.class_names for name, each in self.sets.items()}
        try:
            return MergedPeople(read_merged_identities(Path(path), names))
        except ValueError as error:
            raise ValueError(f"--merge_identities: {error}") from error

    @property
    def spans(self) -> dict[str, Span]:
        """Return where in `train_dataset` each set lies."""
        ends = accumulate(len(each.dataset) for each in self.sets.values())
        last_labels = accumulate(each.num_classes for each in self.sets.values())
        return {
            name: Span(range(end - len(each.dataset), end), range(last - each.num_classes, last))
            for (name, each), end, last in zip(self.sets.items(), ends, last_labels, strict=True)
        }

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
        self._open_sets()
        if all(each.is_loaded for each in self.sets.values()):
            datasets = {name: each.dataset for name, each in self.sets.items()}
            self._train = JoinedFaces(datasets) if len(datasets) > 1 else next(iter(datasets.values()))
            self._check_classes()
        self._describe_validation()
        if not self.config.evaluate:
            self._check_pairs()
            found = {name: each.watched_views() for name, each in self._validated.items()}
            self.watched = {name: views for name, views in found.items() if views is not None}
            self.build_sampler(rank=0)  # refuses a batch that these data cannot fill, before anything is written

    def _open_sets(self) -> None:
        """Open every set, and the benchmarks that several of them have in common."""
        c = self.config
        if c.data and (c.val_data_path or c.val_sets):
            # The people in common have the views that those of the first set have.
            first = next(iter(self.sets.values())).config
            one = replace(
                c,
                data=(),
                merge_identities=None,
                data_format=first.data_format,
                degradation=first.degradation,
                degradation_side=first.degradation_side,
            )
            shared = FaceSet(one, None, self.division, self.num_workers)
            shared.load_benchmarks()
            self.benchmarks, self.missing = shared.benchmarks, shared.missing
            self._validated = {ONLY_DATASET: shared}
            self.alignment = shared.alignment
        have_shared = bool(self.benchmarks)
        for each in self.sets.values():
            each.load(validates=not have_shared)
            self.benchmarks = [*self.benchmarks, *each.benchmarks]
            self.alignment = self.alignment or each.alignment
            if trained := Alignment.of(self.alignment):
                trained.refuse_other(Alignment.of(each.alignment))
        if not c.data:
            self.missing = self.sets[ONLY_DATASET].missing

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

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave on the host which set each image is from: of a device a step would have to wait for the answer."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return moved._replace(dataset_id=batch.dataset_id) if isinstance(batch, Sample) else moved

    def train_dataloader(self) -> DataLoader:
        """Return the loader of training batches; `SampleKey` keys every random draw."""
        sampler = self.train_sampler
        logger.info("training: %s", sampler.summary())
        for warning in sampler.warnings(self.config.epochs) if isinstance(sampler, MixtureBatchSampler) else ():
            logger.warning("%s", warning)
        views = [each.view() for each in self.sets.values()]
        return DataLoader(
            MixedView(views) if len(views) > 1 else views[0],
            batch_sampler=PlannedBatches(sampler),
            collate_fn=collate,
            **self.loader_options(persistent=True),
        )

    def build_sampler(self, rank: int) -> PlannedSampler:
        """Return the sampler of one rank."""
        config, labels = self.config, self.train_dataset.labels
        sharding = {"seed": config.seed, "rank": rank, "world_size": self.world_size}
        if len(self.sets) > 1 or config.has_curriculum:
            instances = None if config.sampler == "shuffle" else IMAGES_PER_IDENTITY
            of_sets = [each.dataset.labels for each in self.sets.values()]
            sampler = MixtureBatchSampler(of_sets, config.batch_size, self.mix, instances, **sharding)
            sampler.names = [*self.sets]
            return sampler
        if config.sampler == "graph":
            return GraphBatchSampler(labels, config.batch_size, **sharding)
        if config.sampler == "shuffle":
            return shuffled_batches(self.source(0), config.batch_size, **sharding)
        return PKBatchSampler(labels, config.batch_size, epoch_by=config.epoch_by, **sharding)

    def drawn(self, epoch: int, batches: int) -> dict[str, int]:
        """Return how many images of each set the epochs before one and its first batches hold; empty of one set."""
        if len(self.sets) == 1:
            return {}
        return dict(zip(self.sets, self.train_sampler.drawn(epoch, batches).tolist(), strict=True))

    def facts(self) -> dict[str, object]:
        """Return the number of training images and a checksum of their labels, with a curriculum of their ease too."""
        labels = np.ascontiguousarray(self.train_dataset.labels)
        facts: dict[str, object] = {"images": len(labels), "labels (CRC-32)": zlib.crc32(labels.data)}
        if self.mix.ease is not None:
            facts[EASE] = zlib.crc32(np.concatenate([np.asarray(ease) for ease in self.mix.ease]).data)
        return facts

    def check_place(self, place: dict[str, int], table: Tensor | None) -> None:
        """Refuse a place in the data, as `state_dict` gives it, or a table of neighbours that is none of these data's.

        Raises:
            ValueError: if the place lies outside an epoch, or the table does not fit.
        """
        sampler = self.build_sampler(rank=0)
        sampler.load_state_dict(place)
        if table is not None and isinstance(sampler, GraphBatchSampler):
            sampler.set_neighbours(table)

    def val_dataloader(self) -> DataLoader:
        """Return the loader of all benchmark pairs: three images each, with their mirror images."""
        return self.pair_loader(self.config.val_occlusion, passes=6)

    test_dataloader = val_dataloader
