"""Options: two views of each face, at a high (HR) and a low resolution (LR), and what is learned of them."""

from __future__ import annotations

from dataclasses import dataclass

from options.data import AugmentationOptions, DataOptions
from options.flags import MAY_CHANGE, Options, flag
from options.names import DEGRADATIONS, NOT_NEGATIVE, PAIRS, POSITIVE, VIEWS

_SIDES = "[4, 112]"
_FULL = 112  # pixels of a face


@dataclass(frozen=True, kw_only=True)
class ViewPairOptions(Options):
    """Pairs of views."""

    pairs: str | None = flag(
        None, "folder of hr/<person>/<image> with lr/ or dsr/ likewise, or with that in `train`: faces at a high and at"
        " a low resolution", on_resume=MAY_CHANGE,
    )  # fmt: skip
    partner: str | None = flag(
        None, "folder beside hr that has the low-resolution images; else the one of lr and dsr that is there"
    )
    degradation: str | None = flag(
        None, "makes low-resolution images of those of any data: blur, shrinking, noise and JPEG, or all of it twice",
        choices=DEGRADATIONS,
    )  # fmt: skip
    degradation_side: int | None = flag(
        None, "side in pixels that it shrinks faces to; else 8 to 64, drawn for each", within=_SIDES
    )
    front: str | None = flag(
        None, "what enlarges LR images on the device, before the network: bicubic, or the file of a super-resolution"
        " network; else the workers do it, bicubically", on_resume=MAY_CHANGE,
    )  # fmt: skip
    front_size: int | None = flag(
        None, "side in pixels of the LR images that it gets; else --degradation_side", within=_SIDES
    )
    head_views: str = flag("lr", "which views of a pair the margin head judges", choices=VIEWS)
    teacher: str | None = flag(
        None, "file of the network that --teacher_weight, --remember_weight, --relation_weight and --classifier_weight"
        " learn from, of any architecture; else the one that the run starts with, as --start_from_model_statedict"
        " loads it",
    )  # fmt: skip
    teacher_weight: float = flag(
        0.0, "weight of 1 - cosine of the LR embedding and the teacher's of HR", within=NOT_NEGATIVE
    )
    remember_weight: float = flag(
        0.0, "weight of 1 - cosine of the HR embedding and the teacher's, against forgetting", within=NOT_NEGATIVE
    )
    relation_weight: float = flag(
        0.0, "weight of the squared difference between the cosines of two LR images and the teacher's of their HR ones",
        within=NOT_NEGATIVE,
    )  # fmt: skip
    classifier_weight: float = flag(
        0.0, "weight of the divergence between what the margin head makes of LR images and what the teacher's class"
        " means make of its HR ones", within=NOT_NEGATIVE,
    )  # fmt: skip
    classifier_temperature: float = flag(
        4.0, "temperature of both; the higher, the more is learned of the classes that are not meant", within=POSITIVE
    )
    paired_weight: float = flag(
        0.0, "weight of 1 - cosine of the LR and the HR embedding, which stands still", within=NOT_NEGATIVE
    )
    both_gradients: bool = flag(
        False, "paired_weight: the HR embedding moves too; alone, that lets all embeddings collapse"
    )
    info_nce_weight: float = flag(
        0.0, "weight of InfoNCE: an LR image finds its HR image among those of other people, and the other way round",
        within=NOT_NEGATIVE,
    )  # fmt: skip
    supcon_weight: float = flag(
        0.0, "weight of the supervised contrastive loss: an LR image finds all HR images of its person, and the other"
        " way round", within=NOT_NEGATIVE,
    )  # fmt: skip
    info_nce_temperature: float = flag(0.07, "temperature of both", within=POSITIVE)

    @property
    def low_size(self) -> int:
        """Side in pixels of the low-resolution images that a worker hands over."""
        return (self.front_size or self.degradation_side or _FULL) if self.front else _FULL

    @property
    def has_teacher(self) -> bool:
        """Whether something is learned from a teacher."""
        return self.taught_weight > 0

    @property
    def taught_weight(self) -> float:
        """The sum of the weights of what is learned from a teacher."""
        return self.teacher_weight + self.remember_weight + self.relation_weight + self.classifier_weight

    @property
    def pair_weight(self) -> float:
        """The sum of the weights of what is learned of both views."""
        contrast = self.paired_weight + self.info_nce_weight + self.supcon_weight
        return self.taught_weight + contrast


@dataclass(frozen=True, kw_only=True)
class PairOptions(ViewPairOptions, AugmentationOptions, DataOptions):
    """Pairs of views, with what they are made of."""

    @property
    def source(self) -> str:
        """Which of `SOURCES` reads the training images."""
        return PAIRS if self.pairs else super().source

    @property
    def has_views(self) -> bool:
        """Whether each training image has a view at a low resolution."""
        return self.source == PAIRS or self.degradation is not None

    def check_source(self) -> None:
        """Refuse two formats, two sources of low-resolution images, and what belongs to pairs where there are none.

        Raises:
            ValueError: one line that names the flags.
        """
        places = ("data_root", "train_data_path", "data_format", "use_mxrecord")
        if self.pairs and (other := next((name for name in places if getattr(self, name)), None)):
            raise ValueError(f"--{other} conflicts with --pairs, which says what is read; leave one of them out")
        super().check_source()
        if self.source == PAIRS and self.degradation:
            raise ValueError(f"--degradation {self.degradation} conflicts with pairs of files, which are degraded")
        if self.source == PAIRS and self.align == "yes":
            raise ValueError("--align yes would move the HR image of a pair and not its partner; align both before")
        if self.partner and self.source != PAIRS:
            raise ValueError(f"--partner {self.partner} belongs to --pairs; leave it out")
        if self.degradation_side and not self.degradation:
            raise ValueError(f"--degradation_side {self.degradation_side} belongs to --degradation; leave it out")

    def check_views(self) -> None:
        """Refuse losses of two views where there is one, and what does not go with two.

        Raises:
            ValueError: one line that names the flags.
        """
        if self.has_views and self.low_res_augmentation_prob:
            raise ValueError(
                f"--low_res_augmentation_prob {self.low_res_augmentation_prob:g} would lower the resolution of both"
                " views of a pair; use 0"
            )
        if self.front_size and not self.front:
            raise ValueError(f"--front_size {self.front_size} belongs to --front; leave it out")
        if self.front and not (self.front_size or self.degradation_side):
            raise ValueError("--front needs the side of the images that it enlarges: give --front_size")
        weights = [option.name for option in ViewPairOptions.options() if option.name.endswith("_weight")]
        given = [name for name in weights if getattr(self, name)] + ["head_views"] * (self.head_views != VIEWS[0])
        given += ["front"] if self.front else []
        if given and not self.has_views:
            raise ValueError(f"--{given[0]} belongs to pairs of views: give --pairs or --degradation")
        if self.teacher and not self.has_teacher:
            raise ValueError(
                "--teacher teaches nothing: give --teacher_weight, --remember_weight, --relation_weight or"
                " --classifier_weight"
            )
        if self.both_gradients and not self.paired_weight:
            raise ValueError("--both_gradients belongs to --paired_weight; leave it out")
