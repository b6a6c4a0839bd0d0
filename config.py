"""Every option of the programs, once: flags -> one frozen Config.

Each section is a frozen dataclass (those of training are in options/); options/flags.py turns its fields into flags.
Programs compose the sections they need: `Config` trains, `EvaluationConfig` evaluates. Standard library only.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from options.command import Alias, FlagParser, as_typed, user_errors
from options.engine import EngineOptions
from options.evaluation import EvaluationOptions, FusionOptions
from options.flags import add_flags, merge_options
from options.mixture import MixtureOptions, options_of_set, refuse_other_sets
from options.model import BackboneOptions, NetworkOptions
from options.names import (
    ARCHS,
    AUTO,
    BACKENDS,
    CLASS_MEANS,
    COLOR_SPACES,
    EPOCH_UNITS,
    HEADS,
    IMAGES_PER_IDENTITY,
    LR_SCHEDULES,
    MAP_DTYPES,
    MS1MV2_SUBSET,
    NO_METRIC,
    OCCLUDERS,
    OCCLUSION_HEADS,
    OCCLUSION_LOSSES,
    OCCLUSION_METHODS,
    ONLY_DATASET,
    OPTIMIZERS,
    PAIRWISE_REDUCTIONS,
    QACONV_SCORES,
    SAMPLERS,
    SPLIT_HEADS,
    WANDB_MODES,
)
from options.overrides import override
from options.pairs import PairOptions
from options.run import DeviceOptions, StartOptions
from options.tasks.detection import (
    DetectionDataOptions,
    DetectionSystemOptions,
    DetectionTrainingOptions,
    DetectionViewOptions,
    DetectorDistillationOptions,
    DetectorOptions,
)
from options.tasks.pretraining import (
    ContrastOptions,
    PretrainingDataOptions,
    PretrainingSystemOptions,
    PretrainingTrainingOptions,
    PseudoIdentityOptions,
    ViewOptions,
)
from options.training import IdentityOptions
from system.launch import is_main_process

# The names that options choose from are also found here.
__all__ = [
    "ARCHS", "AUTO", "BACKENDS", "COLOR_SPACES", "EPOCH_UNITS", "HEADS", "IMAGES_PER_IDENTITY", "LR_SCHEDULES",
    "MAP_DTYPES", "MS1MV2_SUBSET", "OCCLUDERS", "OCCLUSION_HEADS", "OCCLUSION_LOSSES", "OCCLUSION_METHODS",
    "OPTIMIZERS", "PAIRWISE_REDUCTIONS", "QACONV_SCORES", "SAMPLERS", "SPLIT_HEADS", "WANDB_MODES", "Config",
    "DetectionConfig", "EvaluationConfig", "EvaluationOptions", "PretrainingConfig", "add_task_arguments",
    "explicit_flags", "get_args", "get_detection_args", "get_eval_args", "get_pretraining_args", "merge_for_resume",
]  # fmt: skip

logger = logging.getLogger(__name__)

Run = TypeVar("Run", "Config", "PretrainingConfig", "DetectionConfig")


@dataclass(frozen=True, kw_only=True)
class Config(
    StartOptions, IdentityOptions, EngineOptions, PairOptions, FusionOptions, NetworkOptions, MixtureOptions,
):  # fmt: skip
    """Options of a training run; saved with it and in each of its checkpoints.

    `m` and `h` stay None where the published values are meant: the head knows them.

    Raises:
        ValueError: if a value is not allowed or two options conflict; one line that names the flag.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_precision()
        self._check_check_mode()
        self._check_training()
        self._check_head()
        self._check_weights()
        self._check_start()
        self._check_data_sets()

    def _check_check_mode(self) -> None:
        if not self.check_mode:
            return
        if self.precision not in (None, AUTO) or self.use_16bit:
            asked = "--use_16bit" if self.use_16bit else f"--precision {self.precision}"
            raise ValueError(f"--check_mode computes in float64: it conflicts with {asked}; leave one of them out")
        if self.lora_dropout:
            raise ValueError("--check_mode has no dropout: it conflicts with --lora_dropout; leave one of them out")
        if 0 < self.partial_fc_rate < 1:
            raise ValueError(
                f"--check_mode conflicts with --partial_fc_rate {self.partial_fc_rate:g}: which classes a step sees"
                " depends on the number of ranks; use 0 or 1"
            )

    def _check_training(self) -> None:
        self.check_source()
        if self.batch_size % IMAGES_PER_IDENTITY and not self.evaluate:
            below = self.batch_size - self.batch_size % IMAGES_PER_IDENTITY
            raise ValueError(
                f"--batch_size must be divisible by {IMAGES_PER_IDENTITY} (images of an identity), got"
                f" {self.batch_size}; try {below} or {below + IMAGES_PER_IDENTITY}"
            )
        if self.sampler != "pk" and self.epoch_by != "images":
            raise ValueError(f"--epoch_by {self.epoch_by} belongs to --sampler pk; leave it out")

    @property
    def most_identities(self) -> int:
        """How many a batch may hold at most."""
        return self.batch_size if self.sampler == "shuffle" else self.batch_size // IMAGES_PER_IDENTITY

    def _check_head(self) -> None:
        if self.lora_rank and self.head_only:
            raise ValueError("--head_only freezes the backbone, --lora_rank trains it by adapters: leave one out")
        if self.partial_fc_rate and self.stages:
            raise ValueError("--stages: a head that is split cannot be frozen; use --partial_fc_rate 0")
        if self.partial_fc_rate and self.classifier_weight:
            raise ValueError("--classifier_weight compares all classes: use --partial_fc_rate 0")
        if self.partial_fc_rate and self.head not in SPLIT_HEADS:
            raise ValueError(f"--partial_fc_rate cannot split --head {self.head}; use 0 or {', '.join(SPLIT_HEADS)}")
        if self.partial_fc_rate and self.optimizer != "sgd":
            raise ValueError(
                f"--partial_fc_rate needs --optimizer sgd, got {self.optimizer}: shards know momentum only"
            )
        if self.h is not None and self.head != "adaface":
            raise ValueError(f"--h belongs to --head adaface, not to {self.head}; leave it out")

    def _check_weights(self) -> None:
        losses = self.adaface_loss_weight + self.qaconv_loss_weight + self.occlusion_loss_weight
        if losses + self.pair_weight == 0:
            raise ValueError("--adaface_loss_weight, --qaconv_loss_weight and --occlusion_loss_weight are all 0")
        if self.modulator and not self.qaconv_loss_weight:
            raise ValueError("--modulator changes the map that the matcher reads: give --qaconv_loss_weight, or none")
        if self.class_weight is not None and not self.class_embeddings:
            raise ValueError("--class_weight belongs to --class_embeddings; leave it out")
        if self.adaface_eval_weight + self.qaconv_eval_weight == 0:
            raise ValueError("--adaface_eval_weight and --qaconv_eval_weight are both 0")

    def _check_data_sets(self) -> None:
        self.check_curriculum()
        if self.has_curriculum and (self.sampler == "graph" or self.epoch_by != "images"):
            raise ValueError("a curriculum draws images by --sampler pk or shuffle and --epoch_by images")
        if not self.data:
            if self.merge_identities:
                raise ValueError("--merge_identities joins people of several sets: give these by --data")
            if "resolution" in self.modulator and not self.has_views:
                raise ValueError("--modulator resolution is known of views at a low one: give --pairs or --degradation")
            self.check_views()
            return
        flags = ("data_root", "train_data_path", "train_data_subset", "custom_num_class", "use_mxrecord", "pairs")
        if other := next((name for name in flags if getattr(self, name)), None):
            raise ValueError(
                f"--{other} conflicts with --data, which says of each set what is read; leave one of them out"
            )
        if self.sampler == "graph":
            raise ValueError("--sampler graph knows one data set; use pk or shuffle with --data")
        if self.epoch_by != "images":
            raise ValueError(f"--epoch_by {self.epoch_by} knows one data set; leave it out with --data")
        by_set = self.by_set()
        without = [name for name, options in by_set.items() if not options.has_views]
        if without and len(without) < len(by_set):
            raise ValueError(
                f"--data {without[0]}: has no views at a low resolution, others have; give it degradation=first_order"
            )

    def by_set(self) -> dict[str, Config]:
        """Return the options of each set by its name; without --data, of the only one."""
        found = {each.name: options_of_set(self, each) for each in self.data_sets()}
        return found or {ONLY_DATASET: self}

    @property
    def trains_on_views(self) -> bool:
        """Whether each image has a view at a low resolution; of several sets all have or none."""
        return any(options.has_views for options in self.by_set().values())

    def _check_start(self) -> None:
        if self.evaluate and not (self.resume_from_checkpoint or self.start_from_model_statedict):
            raise ValueError("--evaluate needs --resume_from_checkpoint or --start_from_model_statedict")
        if self.head_start == CLASS_MEANS and not (self.resume_from_checkpoint or self.start_from_model_statedict):
            raise ValueError(
                f"--head_start {CLASS_MEANS}: the means are those of embeddings by trained weights; give"
                " --start_from_model_statedict"
            )
        started = self.teacher or self.resume_from_checkpoint or self.start_from_model_statedict
        if self.has_teacher and not started:
            raise ValueError(
                "--teacher_weight, --remember_weight, --relation_weight and --classifier_weight need trained weights to"
                " learn from: give --start_from_model_statedict or --teacher"
            )


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig(
    ContrastOptions, PseudoIdentityOptions, ViewOptions, PretrainingTrainingOptions, PretrainingSystemOptions,
    EngineOptions, BackboneOptions, PretrainingDataOptions,
):  # fmt: skip
    """Options of `main.py pretrain`; saved with the run and in each of its checkpoints.

    Raises:
        ValueError: if a value is not allowed or two options conflict; one line that names the flag.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_precision()
        self.check_source()
        self.check_clusters()
        if self.queue_size < self.batch_size:
            raise ValueError(
                f"--queue_size {self.queue_size} holds less than one batch of {self.batch_size} (--batch_size): give"
                f" {self.batch_size} or more"
            )
        if self.ema_decay:
            raise ValueError("--ema_decay: the key encoder is a moving average already; leave it out")
        if self.view_occlusion_prob and not self.occluders:
            raise ValueError(f"--view_occlusion_prob {self.view_occlusion_prob:g} needs --occluders")
        if self.monitor != NO_METRIC and self.val_data_path is None:
            raise ValueError(
                f"--monitor {self.monitor} needs labeled sets: give --val_data_path, or --monitor {NO_METRIC}"
            )


@dataclass(frozen=True, kw_only=True)
class DetectionConfig(
    DetectorOptions, DetectorDistillationOptions, DetectionViewOptions, DetectionTrainingOptions,
    DetectionSystemOptions, EngineOptions, DetectionDataOptions,
):  # fmt: skip
    """Options of `main.py detect train`; saved with the run and in each of its checkpoints.

    Raises:
        ValueError: if a value is not allowed or two options conflict; one line that names the flag.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_precision()
        self.check_labels(self.monitor)
        if not self.box_weight + self.score_weight + self.landmark_weight + self.teacher_weight:
            raise ValueError("--box_weight, --score_weight and --landmark_weight are all 0: nothing is learned")
        if self.activation_checkpointing:
            raise ValueError("--activation_checkpointing knows recognizers' backbones alone; leave it out")
        if self.compile and self.attention_weight:
            raise ValueError("--compile takes a detector whole, --attention_weight its maps apart: leave one out")
        if self.check_mode and (self.precision not in (None, AUTO) or self.use_16bit):
            raise ValueError("--check_mode computes in float64: it conflicts with --precision and --use_16bit")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(DeviceOptions, EvaluationOptions):
    """Options of `main_eval.py`.

    Raises:
        ValueError: if a value is not allowed, missing, or two options conflict; one line that names the flag.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_precision()
        for name in ("model_path", "data_path", "output_dir"):
            if not getattr(self, name):
                raise ValueError(f"--{name.replace('_', '-')} is missing")
        if self.gpus > 1:
            raise ValueError(f"--gpus must be 0 or 1, got {self.gpus}: an evaluation uses one device")
        if self.occlude != "none" and not self.occluders:
            raise ValueError(f"--occlude {self.occlude} needs --occluders")
        if self.occlusion_draws > 1 and self.occlude == "none":
            raise ValueError(f"--occlusion-draws {self.occlusion_draws} hides nothing: give --occlude one or both")
        if self.adaface_weight + self.qaconv_weight == 0:
            raise ValueError("--adaface-weight and --qaconv-weight are both 0")
        if self.shortlist and self.pairs is not None:
            raise ValueError("--shortlist chooses among all pairs: it conflicts with --pairs")


def get_args(argv: Sequence[str] | None = None, prog: str = "main.py", programs: str = "") -> Config:
    """Return the options of `main.py`; bad ones end the program with one line and exit code 2.

    Args:
        argv: words of the command line without the program's name; None takes the program's own. `@file` reads words
            from a file, see `command.FlagParser`.
        prog: the name that the program was called by.
        programs: what the help says of the other programs.
    """
    description = "Train, validate, test and resume. A switch is taken back by --no_ before its name."
    example = f"{as_typed(prog)} --data_root my_faces --arch ir_50 --epochs 20"
    parser = FlagParser(prog, "\n\n".join(filter(None, (description, programs))), example)
    add_task_arguments(parser)
    with user_errors(parser.prog):
        config = Config(**parser.read(argv))
    notes = list(parser.notes)
    if config.distributed_backend != "ddp":
        notes.append(f"--distributed_backend {config.distributed_backend} no longer exists in Lightning 2: ddp is used")
    # Launchers, and Lightning for its further ranks, start the same command once more for each rank.
    for note in notes if is_main_process() else ():
        logger.warning("%s", note)
    return replace(config, distributed_backend="ddp")


def add_task_arguments(parser: argparse.ArgumentParser, defaults: bool = True) -> None:
    """Add every flag of `main.py` to a parser, with or without defaults; see `add_flags`."""
    add_flags(parser, Config, defaults=defaults)
    _add_aliases(parser)


def _add_aliases(parser: argparse.ArgumentParser) -> None:
    """Add AdaFace's flags that have another name here."""
    aliases = partial(parser.add_argument, action=Alias, dest="wandb", nargs=0, const="online")
    aliases("--use_wandb", "--use-wandb", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def get_eval_args(argv: Sequence[str] | None = None, prog: str = "main_eval.py") -> EvaluationConfig:
    """Return the options of `main_eval.py`; see `get_args`."""
    example = f"{as_typed(prog)} --model-path last.ckpt --data-path my_people --output-dir out"
    parser = FlagParser(prog, "Evaluate a checkpoint on a folder of identities.", example)
    add_flags(parser, EvaluationConfig, separator="-")
    with user_errors(parser.prog):
        return EvaluationConfig(**parser.read(argv))


def get_pretraining_args(argv: Sequence[str] | None = None, prog: str = "main.py pretrain") -> PretrainingConfig:
    """Return the options of `main.py pretrain`; see `get_args`."""
    description = "Train a backbone on faces without labels. A switch is taken back by --no_ before its name."
    parser = FlagParser(prog, description, f"{as_typed(prog)} --data_root my_faces --arch ir_50 --epochs 50")
    add_flags(parser, PretrainingConfig)
    with user_errors(parser.prog):
        return PretrainingConfig(**parser.read(argv))


def get_detection_args(argv: Sequence[str] | None = None, prog: str = "main.py detect train") -> DetectionConfig:
    """Return the options of `main.py detect train`; see `get_args`."""
    description = "Train a detector of faces. A switch is taken back by --no_ before its name."
    example = f"{as_typed(prog)} --data_root WIDER_train/images --labels label.txt --monitor none"
    parser = FlagParser(prog, description, example)
    add_flags(parser, DetectionConfig)
    with user_errors(parser.prog):
        return DetectionConfig(**parser.read(argv))


def explicit_flags(argv: Sequence[str] | None = None, program: type[EngineOptions] = Config) -> set[str]:
    """Return the names of the options that the words for a program that trains give, `@file` included."""
    parser = FlagParser("main.py", "")
    add_flags(parser, program, defaults=False)
    if program is Config:
        _add_aliases(parser)
    return set(parser.read(argv))


def merge_for_resume(saved: Mapping[str, object], given: Run, explicit: AbstractSet[str]) -> Run:
    """Return the options of a resumed run: the checkpoint's, with the changes that are allowed.

    Args:
        saved: `to_dict()` of the checkpoint's options.
        given: the options of the command that resumes.
        explicit: names of those that the user gave; the others follow the checkpoint.
    Raises:
        ValueError: if a given option contradicts the checkpoint, or the checkpoint holds unknown options.
    """
    before = type(given).from_dict(dict(saved))
    # A run settles its precision when it begins: of two words for it the flag given replaces both; auto keeps it.
    if "precision" in explicit and given.precision != AUTO:
        before = replace(before, use_16bit=False)
    elif "use_16bit" in explicit and given.use_16bit:
        before = replace(before, precision=None)
    kept = {"precision"} if given.precision == AUTO else set()
    merged = override(merge_options(before, given, explicit - kept), given.override)
    if isinstance(before, Config) and isinstance(merged, Config):
        refuse_other_sets(before, merged)
    return merged
