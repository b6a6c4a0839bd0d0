"""The sections of the training options: each is a frozen dataclass whose fields are flags; `config` composes them.

Standard library only. The tuples of names repeat the registries of the packages, which cannot be imported here; a test
compares them.
"""

from __future__ import annotations

from dataclasses import dataclass

from options.flags import INVOCATION, MAY_CHANGE, Options, flag
from options.overrides import split_assignments

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
MAP_DTYPES = ("float32", "float16", "int8")
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
    follow_links: bool = flag(False, "follow links in the folder of identities that lead out of it")
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
    ema_decay: float = flag(
        0.0, "evaluate a moving average of the weights; the share of it that a step leaves, 0 = none", within="[0, 1)"
    )
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
    max_skipped_steps: int = flag(
        100, "steps that --on_nonfinite skip may skip before the run stops all the same", within=NOT_NEGATIVE,
        on_resume=MAY_CHANGE,
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
    partial_fc_rate: float = flag(
        0.0, "split the head's classes over the ranks, a step sees this share of them; 0 = all on every rank",
        within=SHARE,
    )  # fmt: skip
    freeze: tuple[str, ...] = flag(
        (), "parameters that are not trained: patterns of their names, as model.* or model.body.0.*; parts of the model"
        " that are frozen whole stay in eval mode, running statistics and dropout too",
    )  # fmt: skip
    head_only: bool = flag(False, "train margin head, matcher and occlusion head: freeze the backbone, model.*")
    color_space: str | None = flag(
        None, "channel order of weights from elsewhere that do not state it", choices=COLOR_SPACES, on_resume=INVOCATION
    )

    @property
    def frozen(self) -> tuple[str, ...]:
        """The patterns of the parameters that are not trained."""
        return (*self.freeze, "model.*") if self.head_only else self.freeze


@dataclass(frozen=True, kw_only=True)
class QAConvOptions(Options):
    """QAConv, the local matcher."""

    qaconv_channels: int = flag(0, "channels of a 1x1 projection before matching; 0 = none", within=NOT_NEGATIVE)
    qaconv_score: str = flag("bn_fc", "the published score, or weighted cosines of a projection", choices=QACONV_SCORES)
    class_embeddings: bool = flag(False, "learn a map of each identity and classify by matching it")
    k_nearest: int = flag(32, "class_embeddings: nearest classes that an image is matched with", within=COUNT)
    cross_rank_pairs: bool = flag(
        False, "match the images of a rank with those of all ranks, not with each other alone: as many times the pairs"
        " as there are ranks, and the maps of the whole batch on every rank; the log says how much that is",
    )  # fmt: skip


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
    precision: str | None = flag(
        None, "float32 (the default) or mixed precision; auto: bf16 where the device computes in it, else float32",
        choices=("32", "bf16", "16", AUTO), on_resume=MAY_CHANGE,
    )  # fmt: skip
    use_16bit: bool = flag(False, "mixed precision: fp16 on a GPU, bf16 on the CPU", on_resume=MAY_CHANGE)
    threads: int = flag(
        0, "threads of each rank; 0: OMP_NUM_THREADS, else what the cores of this process leave beside the workers",
        within="[0, 1024]", on_resume=MAY_CHANGE,
    )  # fmt: skip

    def precision_on(self, gpu: bool) -> str:
        """Return "32", "bf16" or "16" for a GPU or the CPU; "auto" is left to `devices.choose_precision`.

        Raises:
            ValueError: if the flags contradict each other there, or ask for fp16 on the CPU.
        """
        implied = ("16" if gpu else "bf16") if self.use_16bit else None
        if implied and self.precision not in (None, AUTO, implied):
            device = "a GPU" if gpu else "the CPU"
            raise ValueError(f"--use_16bit means {implied} on {device}: it conflicts with --precision {self.precision}")
        chosen = implied or self.precision or "32"
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
    activation_checkpointing: bool = flag(
        False, "compute the backbone's activations again in the backward pass: less memory, the same numbers",
        on_resume=MAY_CHANGE,
    )  # fmt: skip
    prefix: str = flag("maskwise", "first part of the run folder's name")
    monitor: str = flag("val_acc", "metric whose largest value makes best.ckpt")
    log_every_n_steps: int = flag(50, "steps between two lines of metrics", within=COUNT, on_resume=MAY_CHANGE)
    heartbeat_seconds: float = flag(
        60.0, "seconds between two lines on pace and memory, and without a batch until a stall is said; 0 = neither",
        within=NOT_NEGATIVE, on_resume=MAY_CHANGE,
    )  # fmt: skip
    save_all_models: bool = flag(False, "keep a checkpoint of every epoch", on_resume=MAY_CHANGE)
    tensorboard: bool = flag(
        False, "also write TensorBoard's files into the run folder; needs tensorboardX", on_resume=MAY_CHANGE
    )
    wandb: str = flag("disabled", "also log to Weights & Biases", choices=WANDB_MODES, on_resume=MAY_CHANGE)
    wandb_project: str = flag("maskwise", "project of the W&B run", on_resume=MAY_CHANGE)
    wandb_entity: str | None = flag(None, "user or team that it belongs to; else W&B's default", on_resume=MAY_CHANGE)
    wandb_name: str | None = flag(None, "its name; else the run folder's", on_resume=MAY_CHANGE)
    resume_from_checkpoint: str | None = flag(
        None, "go on with the run of this last.ckpt; auto: with the newest run of --prefix, if there is one",
        on_resume=INVOCATION,
    )  # fmt: skip
    override: tuple[str, ...] = flag(
        (), "change options that the checkpoint fixes, as in lr=0.01,weight_decay=1e-4; may be repeated",
        parse=split_assignments, on_resume=INVOCATION,
    )  # fmt: skip
    requeue: bool = flag(
        False, "after a signal start the job again: by scontrol under SLURM, by exit code 85 elsewhere",
        on_resume=INVOCATION,
    )  # fmt: skip
    start_from_model_statedict: str | None = flag(
        None, "start with this file's weights: a backbone from elsewhere, or what fits of a checkpoint of ours",
        on_resume=INVOCATION,
    )  # fmt: skip
    load: str = flag(
        "all", "what --start_from_model_statedict takes of a checkpoint of ours: backbone, matcher, occlusion head,"
        " statistics and, for the same identities, class weights, as far as they fit; or the backbone alone",
        choices=("all", "backbone"), on_resume=INVOCATION,
    )  # fmt: skip
    evaluate: bool = flag(False, "test only, with the checkpoint given", on_resume=INVOCATION)
    check_mode: bool = flag(
        False, "take the same course on any number of ranks: float64, batch norms in eval mode, no dropout, pairs"
        " across ranks",
    )  # fmt: skip
    fast_dev_run: bool = flag(False, "one batch of everything, nothing saved", on_resume=INVOCATION)
    test_run: bool = flag(False, "50 batches an epoch", on_resume=INVOCATION)
