"""Options: what is read, how it is augmented, and what hides it."""

from __future__ import annotations

from dataclasses import dataclass

from options.flags import MAY_CHANGE, Options, flag
from options.names import (
    ALIGN_HELP,
    ALIGNMENTS,
    COUNT,
    DETECTOR_HELP,
    MS1MV2_SUBSET,
    OCCLUDERS,
    OCCLUSION_METHODS,
    SHARE,
    SOURCES,
)


@dataclass(frozen=True, kw_only=True)
class SourceOptions(Options):
    """Data."""

    data_root: str | None = flag(
        None, "folder of the data; without one: the embedded synthetic faces", on_resume=MAY_CHANGE
    )
    swap_color_channel: bool = flag(False, "the training files hold red and blue the other way round")
    follow_links: bool = flag(False, "follow links in the folder of identities that lead out of it")
    align: str = flag("auto", ALIGN_HELP, choices=ALIGNMENTS, before="no")
    detector: str = flag("mtcnn", DETECTOR_HELP)
    use_mxrecord: bool = flag(
        False, "the training data are a RecordIO file, train.rec with train.idx, as InsightFace's"
    )
    data_format: str | None = flag(
        None, "how the training images lie: a folder for each identity, records, the arrays that convert wrote, or"
        " pairs as --pairs has them; else as --use_mxrecord says", choices=SOURCES,
    )  # fmt: skip
    synthetic_identities: int = flag(200, "training identities of the embedded faces", within="[2, inf)")
    synthetic_images: int = flag(20, "images of each of them", within="[2, inf)")
    max_bad_fraction: float = flag(
        0.001, "share of the training images that may be unreadable, one image at least unless it is 0; more: stop",
        within=SHARE, on_resume=MAY_CHANGE,
    )  # fmt: skip

    @property
    def source(self) -> str:
        """Which of `SOURCES` reads the training images."""
        return self.data_format or ("records" if self.use_mxrecord else "folder")

    def check_source(self) -> None:
        """Refuse two formats.

        Raises:
            ValueError: one line that names the flags.
        """
        if self.use_mxrecord and self.source != "records":
            raise ValueError(f"--use_mxrecord conflicts with --data_format {self.data_format}; leave one of them out")


@dataclass(frozen=True, kw_only=True)
class DataOptions(SourceOptions):
    """Data."""

    train_data_path: str | None = flag(
        None, "folder of identity folders, absolute or in data_root; else `train` there, or data_root itself",
        on_resume=MAY_CHANGE,
    )  # fmt: skip
    val_data_path: str | None = flag(
        None, "folder of the benchmark sets, absolute or in data_root; else data_root", on_resume=MAY_CHANGE
    )
    val_sets: tuple[str, ...] = flag(
        (), "benchmark sets, by name in val_data_path or by path; all = every one there; none = the five usual ones",
        on_resume=MAY_CHANGE,
    )  # fmt: skip
    train_data_subset: str | None = flag(
        None, "file of the positions of the images to train on; identities with fewer than 5 of them drop out",
        const=MS1MV2_SUBSET, on_resume=MAY_CHANGE,
    )  # fmt: skip
    custom_num_class: int | None = flag(None, "number of training identities, checked against the data", within=COUNT)
    val_identities: float = flag(
        0.1,
        "share of the people, and nearly of the images, held out for validation where there are no benchmark sets",
        within="[0, 1)",
    )


@dataclass(frozen=True, kw_only=True)
class AugmentationOptions(Options):
    """Augmentation."""

    low_res_augmentation_prob: float = flag(0.0, "share of the images shrunk and enlarged again", within=SHARE)
    crop_augmentation_prob: float = flag(0.0, "share of the images with all but a crop black", within=SHARE)
    photometric_augmentation_prob: float = flag(0.0, "share of the images with other light and color", within=SHARE)
    grayscale_augmentation_prob: float = flag(
        0.0,
        "share of the images without their colors, occluders' too: for data that hold gray photographs",
        within=SHARE,
    )


@dataclass(frozen=True, kw_only=True)
class OcclusionOptions(Options):
    """Occlusion."""

    occlusion_method: str = flag("masking", "how the matcher uses predicted visibility", choices=OCCLUSION_METHODS)
    visible_from: float = flag(
        0.2, "masking: least visibility of a cell that the matcher looks at", within=SHARE, before=0.5
    )
    occlusion_prob: float = flag(0.5, "share of the training images that are occluded", within=SHARE)
    occluders: tuple[str, ...] = flag(
        OCCLUDERS, f"what occludes them: all, none, or some of {', '.join(OCCLUDERS)}", choices=OCCLUDERS
    )
    visibility_gradient: bool = flag(False, "the matcher's loss trains the occlusion head too")
    val_occlusion: tuple[str, ...] = flag(
        OCCLUDERS, "what occludes one image of each pair in validation; none = clean pairs only", choices=OCCLUDERS
    )
