"""Every option of the programs, once: flags -> one frozen Config.

Each section below is a frozen dataclass; flags.py turns its fields into flags. Programs compose the sections they need:
`Config` trains, `EvaluationConfig` evaluates. Standard library only. The tuples of names repeat the registries of the
packages, which cannot be imported here; a test compares them.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from flags import INVOCATION, MAY_CHANGE, FlagParser, Options, add_flags, flag, merge_options, user_errors

logger = logging.getLogger(__name__)

ARCHS = (
    "ir_tiny", "ir_18", "ir_34", "ir_50", "ir_101", "ir_se_18", "ir_se_34", "ir_se_50", "ir_se_101", "mobilefacenet",
)  # fmt: skip
HEADS = ("adaface", "arcface", "cosface")
OPTIMIZERS = ("sgd", "adamw")
LR_SCHEDULES = ("multistep", "cosine")
EPOCH_UNITS = ("images", "identities")
SAMPLERS = ("pk", "graph")
QACONV_SCORES = ("bn_fc", "weighted")
OCCLUSION_METHODS = ("none", "scaling", "masking")
PAIRWISE_REDUCTIONS = ("ranking", "balanced", "mean", "row_sum")
OCCLUDERS = ("surgical", "cloth", "respirator", "niqab", "scarf", "sunglasses", "cap", "fringe", "hand", "block")
COLOR_SPACES = ("rgb", "bgr")
BACKENDS = ("ddp", "dp", "ddp2")
WANDB_MODES = ("online", "offline", "disabled")
IMAGES_PER_IDENTITY = 4  # in a batch: the K of the PK sampler
AUTO = "auto"
MS1MV2_SUBSET = "assets/ms1mv2_train_subset_index.txt"


COUNT = "[1, inf)"
POSITIVE = "(0, inf)"
NOT_NEGATIVE = "[0, inf)"
SHARE = "[0, 1]"
SEEDS = "[0, 4294967295]"


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """Data."""

    data_root: str | None = flag(
        None, "folder of the data; without it and train_data_path: the embedded synthetic faces", on_resume=MAY_CHANGE
    )
    train_data_path: str | None = flag(
        None, "folder of identity folders, absolute or in data_root; else `train` there, or data_root itself",
        on_resume=MAY_CHANGE,
    )  # fmt: skip
    val_data_path: str | None = flag(
        None, "folder of the benchmark sets, absolute or in data_root; else data_root", on_resume=MAY_CHANGE
    )
    swap_color_channel: bool = flag(False, "the training files hold red and blue the other way round")
    use_mxrecord: bool = flag(
        False, "the training data are a RecordIO file, train.rec with train.idx, as InsightFace's"
    )
    train_data_subset: str | None = flag(
        None, "file of the positions of the images to train on; identities with fewer than 5 of them drop out",
        const=MS1MV2_SUBSET, on_resume=MAY_CHANGE,
    )  # fmt: skip
    custom_num_class: int | None = flag(None, "number of training identities, checked against the data", within=COUNT)
    val_identities: float = flag(
        0.1, "share of the identities held out for validation where there are no benchmark sets", within="[0, 1)"
    )
    synthetic_identities: int = flag(200, "training identities of the embedded faces", within="[2, inf)")
    synthetic_images: int = flag(20, "images of each of them", within="[2, inf)")
    max_bad_fraction: float = flag(
        0.001, "share of the training images that may be unreadable, one image at least unless it is 0; more: stop",
        within=SHARE, on_resume=MAY_CHANGE,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(Options):
    """Training."""

    epochs: int = flag(24, "passes over the data", within=COUNT, on_resume=MAY_CHANGE)
    batch_size: int = flag(256, "images a step, over all ranks together; divisible by 4", within="[4, inf)")
    lr: float = flag(0.1, "learning rate", within=POSITIVE)
    lr_milestones: tuple[int, ...] = flag((8, 12, 14), "epochs after which multistep lowers the rate", within=COUNT)
    lr_gamma: float = flag(0.1, "factor of each milestone", within="(0, 1]")
    momentum: float = flag(0.9, "momentum of sgd", within="[0, 1)")
    weight_decay: float = flag(5e-4, "weight decay, not for norms and biases", within=NOT_NEGATIVE)
    accumulate_grad_batches: int = flag(1, "batches whose gradients one optimiser step takes", within=COUNT)
    gradient_clip_val: float = flag(0.0, "largest norm of the gradient; 0 = no clipping", within=NOT_NEGATIVE)
    warmup_steps: int = flag(0, "optimiser steps of linear warm-up", within=NOT_NEGATIVE)
    seed: int = flag(42, "all that is random follows it", within=SEEDS)
    val_check_interval: float = flag(1.0, "share of an epoch between validations", within="(0, 1]")
    check_val_every_n_epoch: int = flag(1, "epochs from validation to validation; divides --epochs", within=COUNT)
    sampler: str = flag(
        "pk", "identities of a batch: random ones, or each identity once with its nearest neighbours", choices=SAMPLERS
    )
    epoch_by: str = flag(
        "images", "an epoch of --sampler pk: each image once, or 4 images of each identity", choices=EPOCH_UNITS
    )
    optimizer: str = flag("sgd", "optimiser", choices=OPTIMIZERS)
    lr_schedule: str = flag("multistep", "learning rate over time, after the warm-up", choices=LR_SCHEDULES)
    margin_warmup_epochs: float = flag(0.0, "epochs over which the margin rises from 0", within=NOT_NEGATIVE)
    checkpoint_every_n_steps: int = flag(
        0, "optimiser steps between two checkpoints within an epoch, whose end always has one; 0 = none",
        within=NOT_NEGATIVE, on_resume=MAY_CHANGE,
    )  # fmt: skip
    keep_every_n_epochs: int = flag(
        0, "epochs between two checkpoints that are kept for good; 0 = none", within=NOT_NEGATIVE, on_resume=MAY_CHANGE
    )
    on_nonfinite: str = flag(
        "stop", "a loss that is not finite stops the run, or its step is skipped and counted",
        choices=("stop", "skip"), on_resume=MAY_CHANGE,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """Model."""

    arch: str = flag("ir_50", "backbone", choices=ARCHS)
    embedding_size: int = flag(512, "length of the embedding", within=COUNT)
    head: str = flag("adaface", "margin head", choices=HEADS)
    m: float | None = flag(
        None, "margin; else the published one: adaface 0.4, arcface 0.5, cosface 0.4", within=NOT_NEGATIVE
    )
    h: float | None = flag(
        None, "adaface: how far quality moves the margin; else 0.333, as published; h = 0 turns adaface into cosface",
        within=NOT_NEGATIVE,
    )  # fmt: skip
    s: float = flag(64.0, "scale of the logits", within=POSITIVE)
    t_alpha: float = flag(0.01, "adaface: rate at which the norm statistics follow the batch", within=SHARE)
    color_space: str | None = flag(
        None, "channel order of weights from elsewhere that do not state it", choices=COLOR_SPACES, on_resume=INVOCATION
    )


@dataclass(frozen=True, kw_only=True)
class QAConvOptions(Options):
    """QAConv, the local matcher."""

    qaconv_channels: int = flag(0, "channels of a 1x1 projection before matching; 0 = none", within=NOT_NEGATIVE)
    qaconv_score: str = flag("bn_fc", "the published score, or weighted cosines of a projection", choices=QACONV_SCORES)
    class_embeddings: bool = flag(False, "learn a map of each identity and classify by matching it")
    k_nearest: int = flag(32, "class_embeddings: nearest classes that an image is matched with", within=COUNT)


@dataclass(frozen=True, kw_only=True)
class LossOptions(Options):
    """Losses."""

    adaface_loss_weight: float = flag(0.1, "weight of the margin head's loss", within=NOT_NEGATIVE)
    qaconv_loss_weight: float = flag(0.7, "weight of the matcher's losses; 0 = no matcher", within=NOT_NEGATIVE)
    occlusion_loss_weight: float = flag(0.3, "weight of the occlusion head's loss", within=NOT_NEGATIVE)
    triplet_weight: float = flag(0.5, "weight of the ranking loss within the matcher's", within=NOT_NEGATIVE)
    triplet_margin: float = flag(1.0, "margin of the ranking loss", within=NOT_NEGATIVE)
    pairwise_reduction: str = flag(
        "ranking", "how the matcher's pairwise loss is reduced over a row of scores", choices=PAIRWISE_REDUCTIONS
    )


@dataclass(frozen=True, kw_only=True)
class OcclusionOptions(Options):
    """Occlusion."""

    occlusion_method: str = flag("masking", "how the matcher uses predicted visibility", choices=OCCLUSION_METHODS)
    occlusion_prob: float = flag(0.5, "share of the training images that are occluded", within=SHARE)
    occluders: tuple[str, ...] = flag(
        OCCLUDERS, f"what occludes them: all, none, or some of {', '.join(OCCLUDERS)}", choices=OCCLUDERS
    )
    visibility_gradient: bool = flag(False, "the matcher's loss trains the occlusion head too")
    val_occlusion: tuple[str, ...] = flag(
        OCCLUDERS, "what occludes one image of each pair in validation; none = clean pairs only", choices=OCCLUDERS
    )


@dataclass(frozen=True, kw_only=True)
class FusionOptions(Options):
    """Fusion of the scores in validation."""

    adaface_eval_weight: float = flag(0.5, "weight of the embedding's score", within=NOT_NEGATIVE)
    qaconv_eval_weight: float = flag(0.5, "weight of the matcher's score", within=NOT_NEGATIVE)


@dataclass(frozen=True, kw_only=True)
class AugmentationOptions(Options):
    """Augmentation."""

    low_res_augmentation_prob: float = flag(0.0, "share of the images shrunk and enlarged again", within=SHARE)
    crop_augmentation_prob: float = flag(0.0, "share of the images with all but a crop black", within=SHARE)
    photometric_augmentation_prob: float = flag(0.0, "share of the images with other light and colour", within=SHARE)


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(Options):
    """Device."""

    gpus: int = flag(1, "number of GPUs; 0, or a machine without one: CPU", within=NOT_NEGATIVE, on_resume=MAY_CHANGE)
    num_workers: int = flag(2, "workers that read images", within=NOT_NEGATIVE, on_resume=MAY_CHANGE)
    precision: str | None = flag(None, "float32 (the default) or mixed precision", choices=("32", "bf16", "16"))
    use_16bit: bool = flag(False, "mixed precision: fp16 on a GPU, bf16 on the CPU")

    def precision_on(self, gpu: bool) -> str:
        """Return "32", "bf16" or "16" for a GPU or the CPU.

        Raises:
            ValueError: if the flags contradict each other there, or ask for fp16 on the CPU.
        """
        implied = ("16" if gpu else "bf16") if self.use_16bit else None
        if implied and self.precision not in (None, implied):
            device = "a GPU" if gpu else "the CPU"
            raise ValueError(f"--use_16bit means {implied} on {device}: it conflicts with --precision {self.precision}")
        chosen = self.precision or implied or "32"
        if chosen == "16" and not gpu:
            raise ValueError("--precision 16 needs a GPU; use bf16 on the CPU")
        return chosen

    def _check_precision(self) -> None:
        # Whether there is a GPU is not known here: refuse what is wrong on every device the run may get.
        if self.gpus == 0 or self.precision == "32":
            self.precision_on(gpu=self.gpus > 0)


@dataclass(frozen=True, kw_only=True)
class SystemOptions(Options):
    """Run."""

    num_processes: int = flag(1, "ranks on the CPU", within=COUNT, on_resume=MAY_CHANGE)
    distributed_backend: str = flag(
        "ddp", "dp and ddp2 no longer exist: ddp is used", choices=BACKENDS, parse=str.lower,
        on_resume=MAY_CHANGE,
    )  # fmt: skip
    compile: bool = flag(False, "compile the backbone", on_resume=MAY_CHANGE)
    prefix: str = flag("maskwise", "first part of the run folder's name")
    monitor: str = flag("val_acc", "metric whose largest value makes best.ckpt")
    log_every_n_steps: int = flag(50, "steps between two lines of metrics", within=COUNT, on_resume=MAY_CHANGE)
    save_all_models: bool = flag(False, "keep a checkpoint of every epoch", on_resume=MAY_CHANGE)
    wandb: str = flag("disabled", "also log to Weights & Biases", choices=WANDB_MODES, on_resume=MAY_CHANGE)
    resume_from_checkpoint: str | None = flag(
        None, "go on with the run of this last.ckpt; auto: with the newest run of --prefix, if there is one",
        on_resume=INVOCATION,
    )  # fmt: skip
    requeue: bool = flag(
        False, "after a signal start the job again: by scontrol under SLURM, by exit code 85 elsewhere",
        on_resume=INVOCATION,
    )  # fmt: skip
    start_from_model_statedict: str | None = flag(None, "start with this file's backbone", on_resume=INVOCATION)
    evaluate: bool = flag(False, "test only, with the checkpoint given", on_resume=INVOCATION)
    fast_dev_run: bool = flag(False, "one batch of everything, nothing saved", on_resume=INVOCATION)
    test_run: bool = flag(False, "50 batches an epoch", on_resume=INVOCATION)


@dataclass(frozen=True, kw_only=True)
class Config(
    SystemOptions, DeviceOptions, AugmentationOptions, FusionOptions, OcclusionOptions, LossOptions, QAConvOptions,
    ModelOptions, TrainingOptions, DataOptions,
):  # fmt: skip
    """Options of a training run; saved with it and in each of its checkpoints.

    `m` and `h` stay None where the published values are meant: the head knows them.

    Raises:
        ValueError: if a value is not allowed or two options conflict; one line that names the flag.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_precision()
        self._check_training()
        self._check_weights()
        self._check_run()

    def _check_training(self) -> None:
        if self.batch_size % IMAGES_PER_IDENTITY:
            below = self.batch_size - self.batch_size % IMAGES_PER_IDENTITY
            raise ValueError(
                f"--batch_size must be divisible by {IMAGES_PER_IDENTITY} (images of an identity), got"
                f" {self.batch_size}; try {below} or {below + IMAGES_PER_IDENTITY}"
            )
        if self.epochs % self.check_val_every_n_epoch:
            raise ValueError(
                f"--check_val_every_n_epoch {self.check_val_every_n_epoch} does not divide --epochs {self.epochs}: the"
                " last weights would never be validated"
            )
        if self.sampler == "graph" and self.epoch_by != "images":
            raise ValueError(f"--epoch_by {self.epoch_by} belongs to --sampler pk; leave it out")
        if list(self.lr_milestones) != sorted(set(self.lr_milestones)):
            raise ValueError(f"--lr_milestones must rise, got {','.join(map(str, self.lr_milestones))}")
        if self.h is not None and self.head != "adaface":
            raise ValueError(f"--h belongs to --head adaface, not to {self.head}; leave it out")

    def _check_weights(self) -> None:
        if self.adaface_loss_weight + self.qaconv_loss_weight + self.occlusion_loss_weight == 0:
            raise ValueError("--adaface_loss_weight, --qaconv_loss_weight and --occlusion_loss_weight are all 0")
        if self.adaface_eval_weight + self.qaconv_eval_weight == 0:
            raise ValueError("--adaface_eval_weight and --qaconv_eval_weight are both 0")

    def _check_run(self) -> None:
        if not self.prefix or "/" in self.prefix or "\\" in self.prefix:
            raise ValueError(f"--prefix must be a plain folder name, got {self.prefix!r}")
        checkpoints = (self.resume_from_checkpoint, self.start_from_model_statedict)
        # A job that is started again by the same command needs both: weights to begin with, then its own checkpoint.
        if all(checkpoints) and self.resume_from_checkpoint != AUTO:
            raise ValueError("--resume_from_checkpoint conflicts with --start_from_model_statedict")
        if self.evaluate and not any(checkpoints):
            raise ValueError("--evaluate needs --resume_from_checkpoint or --start_from_model_statedict")
        if self.fast_dev_run and self.test_run:
            raise ValueError("--fast_dev_run conflicts with --test_run")


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(Options):
    """Evaluation."""

    model_path: str = flag("", "checkpoint of ours, or weights from elsewhere")
    data_path: str = flag("", "folder of identity folders")
    output_dir: str = flag("experiments/evaluation", "folder for the report")
    batch_size: int = flag(64, "images at a time", within=COUNT)
    adaface_weight: float = flag(0.5, "weight of the embedding's score", within=NOT_NEGATIVE)
    qaconv_weight: float = flag(0.5, "weight of the matcher's score", within=NOT_NEGATIVE)
    pairs: str | None = flag(None, "file with the pairs to score; else all pairs of images")
    arch: str | None = flag(None, "backbone, where the file does not tell", choices=ARCHS)
    color_space: str | None = flag(None, "channel order, where the file does not tell", choices=COLOR_SPACES)
    occlude: str = flag("none", "images of each pair to occlude", choices=("none", "one", "both"))
    occluders: tuple[str, ...] = flag(
        OCCLUDERS, f"with what: all, or some of {', '.join(OCCLUDERS)}", choices=OCCLUDERS
    )
    seed: int = flag(42, "the occluders follow it", within=SEEDS)


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
        if self.adaface_weight + self.qaconv_weight == 0:
            raise ValueError("--adaface-weight and --qaconv-weight are both 0")


def get_args(argv: Sequence[str] | None = None) -> Config:
    """Return the options of `main.py`; bad ones end the program with one line and exit code 2.

    Args:
        argv: words of the command line without the program's name; None takes the program's own. `@file` reads words
            from a file, see `flags.FlagParser`.
    """
    parser = FlagParser("main.py", "Train, validate, test and resume. A switch is taken back by --no_ before its name.")
    add_task_arguments(parser)
    with user_errors(parser.prog):
        config = Config(**parser.read(argv))
    # torchrun, and Lightning for its further ranks, start the same command once more for each rank.
    if config.distributed_backend != "ddp" and os.environ.get("LOCAL_RANK", "0") == "0":
        logger.warning(
            "--distributed_backend %s no longer exists in Lightning 2: ddp is used", config.distributed_backend
        )
    return replace(config, distributed_backend="ddp")


def add_task_arguments(parser: argparse.ArgumentParser) -> None:
    """Add every flag of `main.py` to a parser, defaults included."""
    add_flags(parser, Config)


def get_eval_args(argv: Sequence[str] | None = None) -> EvaluationConfig:
    """Return the options of `main_eval.py`; see `get_args`."""
    parser = FlagParser("main_eval.py", "Evaluate a checkpoint on a folder of identities.")
    add_flags(parser, EvaluationConfig, separator="-")
    with user_errors(parser.prog):
        return EvaluationConfig(**parser.read(argv))


def explicit_flags(argv: Sequence[str] | None = None) -> set[str]:
    """Return the names of the options that the words for `main.py` give, `@file` included."""
    parser = FlagParser("main.py", "")
    add_flags(parser, Config, defaults=False)
    return set(parser.read(argv))


def merge_for_resume(saved: Mapping[str, object], given: Config, explicit: AbstractSet[str]) -> Config:
    """Return the options of a resumed run: the checkpoint's, with the changes that are allowed.

    Args:
        saved: `Config.to_dict()` of the checkpoint.
        given: the options of the command that resumes.
        explicit: names of those that the user gave; the others follow the checkpoint.
    Raises:
        ValueError: if a given option contradicts the checkpoint, or the checkpoint holds unknown options.
    """
    return merge_options(Config.from_dict(dict(saved)), given, explicit)
