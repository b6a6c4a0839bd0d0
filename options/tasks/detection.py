"""Options: training a detector of faces."""

from __future__ import annotations

import math
from dataclasses import dataclass

from options.flags import INVOCATION, MAY_CHANGE, Options, flag
from options.names import COUNT, DETECTORS, LR_SCHEDULES, NO_METRIC, NOT_NEGATIVE, OPTIMIZERS, POSITIVE, SHARE
from options.run import SystemOptions
from options.training import TrainingOptions

STRIDE = 32  # of the coarsest map: sides of images are multiples of it
SIZES_PER_LEVEL = (2, 2, 2)  # what the networks describe in a cell of each of their maps

PriorSizes = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class DetectorOptions(Options):
    """Model and losses."""

    arch: str = flag("featherface_eca_cbam", "detector", choices=DETECTORS)
    min_sizes: str = flag(
        "16,32/64,128/256,512", "sides in pixels of the two priors in a cell of the maps at strides 8, 16 and 32"
    )
    box_weight: float = flag(2.0, "weight of the loss of boxes", within=NOT_NEGATIVE)
    score_weight: float = flag(1.0, "weight of the loss of face or background", within=NOT_NEGATIVE)
    landmark_weight: float = flag(1.0, "weight of the loss of the five points", within=NOT_NEGATIVE)
    match_overlap: float = flag(0.35, "least intersection over union of a prior with its face", within="(0, 1]")
    negatives: float = flag(
        7.0, "priors on background that an image's loss holds for each prior on a face, the hardest", within=POSITIVE
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.prior_sizes()

    def prior_sizes(self) -> PriorSizes:
        """Return the sides of the priors of each level.

        Raises:
            ValueError: one line that names the flag.
        """
        try:
            levels = tuple(tuple(map(float, level.split(","))) for level in self.min_sizes.split("/"))
        except ValueError:
            levels = ()
        rising = [*map(float, sum(levels, ()))]
        if tuple(map(len, levels)) != SIZES_PER_LEVEL or not all(0 < size < math.inf for size in rising):
            raise ValueError(
                f"--min_sizes: two sides above 0 for each of three levels, a,b/c,d/e,f; got {self.min_sizes}"
            )
        if rising != sorted(set(rising)):
            raise ValueError(f"--min_sizes: sides must rise, got {self.min_sizes}")
        return levels


@dataclass(frozen=True, kw_only=True)
class DetectorDistillationOptions(Options):
    """Learning from another detector."""

    teacher: str | None = flag(None, "file of the detector that the run learns from", on_resume=MAY_CHANGE)
    teacher_weight: float = flag(0.0, "weight of what it says at each prior", within=NOT_NEGATIVE)
    attention_weight: float = flag(
        0.0, "weight of where its maps are strong, before the heads, whatever their width", within=NOT_NEGATIVE
    )
    start_from_teacher_body: bool = flag(False, "begin with the teacher's backbone", on_resume=INVOCATION)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.has_teacher and self.teacher is None:
            raise ValueError("--teacher_weight and --attention_weight need a detector to learn from: give --teacher")
        if self.start_from_teacher_body and self.teacher is None:
            raise ValueError("--start_from_teacher_body begins with the backbone of a detector: give --teacher")

    @property
    def has_teacher(self) -> bool:
        """Whether a loss needs the teacher."""
        return self.teacher_weight > 0 or self.attention_weight > 0


@dataclass(frozen=True, kw_only=True)
class DetectionViewOptions(Options):
    """Views."""

    image_size: int = flag(
        640, "side in pixels of the views that are trained on, a multiple of 32", within="[32, 8192]"
    )
    crop_prob: float = flag(1.0, "share of the views that are a part of their photograph", within=SHARE)
    color_prob: float = flag(0.5, "share with other light and color", within=SHARE)
    flip_prob: float = flag(0.5, "share that is mirrored", within=SHARE)
    least_side: float = flag(
        0.0, "faces whose shorter side is less in a view, in pixels, are ignored: neither face nor background",
        within=NOT_NEGATIVE,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        check_side("image_size", self.image_size)


@dataclass(frozen=True, kw_only=True)
class DetectionTrainingOptions(TrainingOptions):
    """Training."""

    epochs: int = flag(350, "passes over the data", within=COUNT, on_resume=MAY_CHANGE)
    batch_size: int = flag(32, "photographs a step, over all ranks together", within=COUNT)
    lr: float = flag(1e-3, "learning rate", within=POSITIVE)
    lr_milestones: tuple[int, ...] = flag((190, 220), "epochs after which multistep lowers the rate", within=COUNT)
    optimizer: str = flag("adamw", "optimizer", choices=OPTIMIZERS)
    lr_schedule: str = flag("onecycle", "learning rate over time", choices=LR_SCHEDULES)


@dataclass(frozen=True, kw_only=True)
class DetectionSystemOptions(SystemOptions):
    """Run."""

    prefix: str = flag("detector", "first part of the run folder's name")
    monitor: str = flag(
        "val_ap", "figure of the validation whose largest value makes best.ckpt: val_ap, val_ap50, val_recall, or none"
    )
    compile: bool = flag(False, "compile the detector", on_resume=MAY_CHANGE)
    start_from_model_statedict: str | None = flag(
        None, "start with this file's weights: a detector of the same form, from elsewhere or of ours",
        on_resume=INVOCATION,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DetectionDataOptions(Options):
    """Data."""

    data_root: str | None = flag(
        None, "folder that the names in --labels begin at; without one: the embedded synthetic scenes",
        on_resume=MAY_CHANGE,
    )  # fmt: skip
    labels: str | None = flag(
        None, "faces of the photographs: RetinaFace's label.txt, labelv2.txt, WIDER FACE's bbx_gt.txt or COCO's .json",
        on_resume=MAY_CHANGE,
    )  # fmt: skip
    val_data_path: str | None = flag(
        None, "folder that the names in --val_labels begin at; else --data_root", on_resume=MAY_CHANGE
    )
    val_labels: str | None = flag(
        None, "faces of the photographs that are validated on, in one of these forms", on_resume=MAY_CHANGE
    )
    synthetic_scenes: int = flag(3000, "embedded scenes that are trained on", within=COUNT)
    synthetic_val_scenes: int = flag(300, "embedded scenes that are validated on", within=COUNT, on_resume=MAY_CHANGE)
    val_size: int = flag(
        640, "longer side in pixels, a multiple of 32, to which larger photographs are shrunk before they are validated"
        " on: figures hold for it",
        within="[32, 8192]",
    )  # fmt: skip
    max_bad_fraction: float = flag(
        0.001, "share of the photographs trained on that may be unreadable, one at least unless it is 0; more: stop",
        within=SHARE, on_resume=MAY_CHANGE,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        check_side("val_size", self.val_size)

    def check_labels(self, monitor: str) -> None:
        """Refuse photographs without labels, labels without photographs, and a metric that nothing gives.

        Raises:
            ValueError: one line that names the flags.
        """
        if (self.data_root is None) != (self.labels is None):
            given, missing = ("labels", "data_root") if self.data_root is None else ("data_root", "labels")
            raise ValueError(
                f"--{given} needs --{missing}: --labels names photographs below --data_root and says where faces are"
            )
        if self.data_root is None and (self.val_labels or self.val_data_path):
            raise ValueError("--val_labels belongs to photographs of your own: give --data_root and --labels")
        if self.val_data_path and not self.val_labels:
            raise ValueError("--val_data_path has photographs that --val_labels names; give both or none")
        if self.data_root is not None and self.val_labels is None and monitor != NO_METRIC:
            raise ValueError(
                f"--monitor {monitor} needs labels to validate on: give --val_labels, or --monitor {NO_METRIC}"
            )


def check_side(name: str, side: int) -> None:
    """Refuse a side of images that the strides do not divide.

    Raises:
        ValueError: one line that names the flag.
    """
    if side % STRIDE:
        below = side // STRIDE * STRIDE
        raise ValueError(f"--{name} must be a multiple of {STRIDE}, got {side}; try {below} or {below + STRIDE}")
