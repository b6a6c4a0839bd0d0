"""One set of training faces with the benchmarks that belong to it: found, opened, aligned, divided."""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from config import MS1MV2_SUBSET, Config
from datasets import (
    Benchmark,
    EvaluationViews,
    FaceDataset,
    IdentitySubset,
    ImageFolderDataset,
    ImageSubset,
    PairedFaces,
    PairedTrainingView,
    TrainingView,
    cache_benchmark,
    evaluation_views,
    find_benchmarks,
    has_pairs,
    read_indices,
    split_at_random,
    split_identities,
    warn_of_unaligned,
)
from datasets.benchmarks.sets import are_sets, holds_sets, open_sets
from datasets.paired.folders import is_paired
from datasets.sampling.measured_difficulty import measured_difficulty
from datasets.synthetic.prepare import SyntheticSpec, prepare_synthetic
from models.embedding.difficulty import told_difficulty
from options.names import DIVISIONS, TOLD_CURRICULA
from system.cores import usable_cores
from tasks.image_data import align_people, open_faces
from transforms import DEGRADATIONS, Degradation, TrainingTransform

logger = logging.getLogger(__name__)
FAST_PAIRS = 40  # of each embedded benchmark set with --fast_dev_run, which scores one batch
MIN_SUBSET_IMAGES = 5  # of an identity in --train_data_subset, as AdaFace's ablations have it
MAX_WATCHED = 500  # images of people held out, at both resolutions
OWN = "own"  # the benchmark of people held out


class FaceSet:
    """The training faces of one data set, and its benchmark sets.

    Args:
        config: options of the set: those of the run, as `options_of_set` changes them.
        name: of the set, None where it is the only one and has none.
        division: of `DIVISIONS`, how people are held out; a run that goes on keeps its own.
        num_workers: processes that align photographs.
    Attributes after `load`:
        benchmarks: its sets, in a fixed order; named after it where it has a name.
        missing: the names of the five benchmarks that were not found.
        synthetic: whether the faces of the benchmarks are the embedded synthetic ones.
        holds_out: whether people of the training faces are held out as the benchmark `own`.
        held_out: people who are not trained on, with their images, where a benchmark is drawn of them; None elsewhere.
        alignment: what was aligned, by which detector to which template; empty where there is no folder of people.
    """

    def __init__(self, config: Config, name: str | None = None, division: str = DIVISIONS[-1], num_workers: int = 0):
        self.config, self.name = config, name
        self.holds_out = False
        self._division = division
        self._num_workers = num_workers
        self._trains_on_embedded = config.data_root is None and config.train_data_path is None and config.pairs is None
        by_path = bool(config.val_sets) and all(Path(name).is_absolute() for name in config.val_sets)
        elsewhere = config.val_data_path is not None or by_path
        self.synthetic = self._trains_on_embedded and not elsewhere
        self.benchmarks: list[Benchmark] = []
        self.missing: list[str] = []
        self.held_out: FaceDataset | None = None
        self.alignment: dict[str, object] = {}
        self._dataset: FaceDataset | None = None

    @property
    def dataset(self) -> FaceDataset:
        """The training identities, without transforms.

        Raises:
            RuntimeError: before `load`, and of an evaluation that needs none.
        """
        if self._dataset is None:
            raise RuntimeError("FaceSet: call load() before reading dataset")
        return self._dataset

    @property
    def is_loaded(self) -> bool:
        """Whether there are training identities."""
        return self._dataset is not None

    @property
    def num_classes(self) -> int:
        """The number of training identities."""
        return len(self.dataset.class_names)

    @property
    def identities(self) -> str:
        """A digest of the names of the training identities, in the order of their labels."""
        names = "\0".join(map(str, self.dataset.class_names))
        return hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()

    def view(self) -> TrainingView:
        """Return the augmented training images, each with a view at a low resolution where the options say so."""
        c, transform = self.config, self.training_transform()
        if not c.has_views:
            return TrainingView(self.dataset, transform, c.seed)
        return PairedTrainingView(self.dataset, transform, c.seed, self.degradation, c.low_size)

    @property
    def degradation(self) -> Degradation | None:
        """What makes low-resolution images; None where there is nothing, or they lie in files."""
        c = self.config
        if c.degradation is None:
            return None
        degrade, side = DEGRADATIONS[c.degradation], c.degradation_side
        return degrade((side, side)) if side else degrade()

    def watched_views(self) -> EvaluationViews | None:
        """Return both views of people who are not trained on; None where there are none, which a line says."""
        c = self.config
        if not c.has_views:
            return None
        try:
            if self.held_out is None or has_pairs(self.held_out) != (self.degradation is None):
                raise ValueError(
                    "benchmark sets do not tell; hold people out, or give a folder of them (--val_data_path)"
                )
            return evaluation_views(self.held_out, self.degradation, c.seed, MAX_WATCHED, c.low_size)
        except ValueError as error:
            logger.warning("low against high resolution is not validated: %s", error)
            return None

    def load(self, validates: bool = True) -> None:
        """Open the training data and the benchmarks; identities for `own` are held out when there are none.

        With --evaluate the training data are opened only where a part of them is to be held out.

        Args:
            validates: whether it must have benchmarks; without, those of its own --val_data_path alone are opened.
        Raises:
            ValueError, OSError: one line that says what is wrong with which path or flag.
        """
        training, sets = self._folders()
        dataset = None if self.config.evaluate else self._open_training(training)
        found: list[Benchmark] = []
        if validates or self.config.val_data_path:
            found, self.missing = self._open_sets(sets, training)
        if validates and not found:
            dataset, found = self._hold_out(dataset or self._open_training(training), training)
        self._dataset = dataset
        prefix = f"{self.name}-" if self.name else ""
        self.benchmarks = [replace(benchmark, name=prefix + benchmark.name) for benchmark in found]

    def load_benchmarks(self) -> None:
        """Open the sets of --val_data_path and --val_sets alone, no training faces.

        Raises:
            ValueError, OSError: as `load`.
        """
        self.benchmarks, self.missing = self._open_sets(Path(self.config.val_data_path or ""), None)

    def difficulty(self) -> NDArray[np.float64]:
        """Return how hard each training image is, as --curriculum measures it or --difficulty tells, float64 [N].

        Raises:
            ValueError: one line that names the flag, if what is told is not of these images.
        """
        c = self.config
        if c.difficulty is None and c.curriculum in TOLD_CURRICULA:
            of = f" of the set {self.name}" if self.name else ""
            raise ValueError(
                f"--curriculum {c.curriculum}: --difficulty must say what a network told of the images{of}"
            )
        if c.difficulty is None:
            return measured_difficulty(self.dataset, c.curriculum, usable_cores())
        try:
            return told_difficulty(self.dataset, c.curriculum, c.difficulty)
        except ValueError as error:
            raise ValueError(f"--difficulty: {error}") from error

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

    def _folders(self) -> tuple[Path, Path]:
        """Return the folder of the training identities and the folder of the benchmark sets."""
        config = self.config
        given = Path(config.pairs or config.data_root or "")
        if self.synthetic or (self._trains_on_embedded and not config.evaluate):
            pairs = {"benchmark_pairs": FAST_PAIRS} if config.fast_dev_run else {}
            root = prepare_synthetic(spec=SyntheticSpec(config.synthetic_identities, config.synthetic_images, **pairs))
        else:
            root = given if config.pairs or config.data_root else given / (config.train_data_path or "")
        if config.train_data_path:
            training = given / config.train_data_path
        else:
            training = root / "train" if (root / "train").is_dir() else root
        return training, given / config.val_data_path if config.val_data_path else root

    def _open_sets(self, sets: Path, training: Path | None) -> tuple[list[Benchmark], list[str]]:
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
        if not (config.evaluate or config.has_views):
            raise ValueError(fault)
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", sets.resolve().name).lstrip(".-")[:100] or "people"
        try:
            people = self._open_people(sets)
            drawn = cache_benchmark(people, name, seed=config.seed)
        except ValueError as error:
            raise ValueError(f"{fault}, and no people to draw pairs of: {error}") from error
        warn_of_unaligned(people)
        self.held_out = people
        return [drawn], []

    def _open_people(self, folder: Path) -> FaceDataset:
        config = self.config
        if is_paired(folder):
            return PairedFaces(folder, config.partner, follow_links=config.follow_links)
        found = ImageFolderDataset(folder, follow_links=config.follow_links)
        people, self.alignment = align_people(config, found, self._num_workers)
        return people

    def _open_training(self, training: Path) -> FaceDataset:
        """Return the training images, those of the subset if one is given."""
        config = self.config
        dataset, self.alignment = open_faces(config, training, self._num_workers, self._trains_on_embedded)
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

    def _hold_out(self, dataset: FaceDataset, training: Path) -> tuple[FaceDataset, list[Benchmark]]:
        """Return the people to train on, and the benchmark of the others."""
        config = self.config
        if config.val_identities == 0:
            raise ValueError(
                f"--val_identities: 0 and no benchmark set in {training}; hold a share of the identities out"
            )
        split = split_identities if self._division == DIVISIONS[-1] else split_at_random
        counts = np.bincount(dataset.labels)
        try:
            train, held_out = split(len(dataset.class_names), config.val_identities, config.seed, counts)
            self.held_out = IdentitySubset(dataset, held_out)
            own = cache_benchmark(self.held_out, name=OWN, seed=config.seed)
        except ValueError as error:
            raise ValueError(
                f"{training}: no benchmark set lies there, and a part of the people cannot be held out as one: {error}."
                " Give more people with several images each, or benchmark sets (--val_data_path)"
            ) from error
        self.holds_out = True
        people, images = len(held_out), int(counts[held_out].sum())
        logger.info(
            "no benchmark set found: %d of %d people (%.1f %%) with %d of %d images (%.1f %%) are held out and "
            "validated as 'own': %d pairs, %d of them genuine",
            people, len(counts), 100 * people / len(counts), images, len(dataset), 100 * images / len(dataset),
            len(own), own.issame.sum(),
        )  # fmt: skip
        return IdentitySubset(dataset, train), [own]
