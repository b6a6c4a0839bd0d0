"""Options: how a model is evaluated."""

from __future__ import annotations

from dataclasses import dataclass

from options.flags import MAY_CHANGE, Options, flag
from options.names import (
    ALIGN_HELP,
    ALIGNMENTS,
    ARCHS,
    COLOR_SPACES,
    COUNT,
    DETECTOR_HELP,
    ENCODER_HELP,
    ENCODERS,
    MAP_DTYPES,
    NOT_NEGATIVE,
    OCCLUDERS,
    SCORE_NORMALIZATIONS,
    SEEDS,
)

RATE = "[1e-12, 1]"  # no set has as many impostor pairs as the least would need
FARS_HELP = "false-accept rates to report the true-accept rate at; none = those of 1e-1 to 1e-6 that the pairs resolve"
ANONYMOUS_HELP = "leave faces, names and paths out of the report's page, and keep none for it; names of sets stay"


@dataclass(frozen=True, kw_only=True)
class FusionOptions(Options):
    """Scores of a validation."""

    adaface_eval_weight: float = flag(0.7, "weight of the embedding's score", within=NOT_NEGATIVE)
    qaconv_eval_weight: float = flag(0.3, "weight of the matcher's score", within=NOT_NEGATIVE)
    score_normalization: str = flag(
        "visibility", "scores as distances from impostors' mean at the same visible shares, which each validation"
        " learns from training people, clean and occluded; or as they come", choices=SCORE_NORMALIZATIONS,
    )  # fmt: skip
    fars: tuple[float, ...] = flag((), FARS_HELP, within=RATE, on_resume=MAY_CHANGE)
    anonymous: bool = flag(False, ANONYMOUS_HELP, on_resume=MAY_CHANGE)


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(Options):
    """Evaluation."""

    model_path: str = flag("", "checkpoint of ours, or weights from elsewhere")
    data_path: str = flag("", "folder of identity folders, record file, benchmark set, or folder of such sets")
    follow_links: bool = flag(False, "follow links in the folder of identities that lead out of it")
    align: str = flag("auto", ALIGN_HELP, choices=ALIGNMENTS)
    detector: str = flag("mtcnn", DETECTOR_HELP)
    output_dir: str = flag("experiments/evaluation", "folder for the report")
    batch_size: int = flag(64, "images at a time", within=COUNT)
    adaface_weight: float = flag(0.7, "weight of the embedding's score", within=NOT_NEGATIVE)
    qaconv_weight: float = flag(0.3, "weight of the matcher's score", within=NOT_NEGATIVE)
    score_normalization: str = flag(
        "visibility", "scores as distances from impostors' mean at the same visible shares, where the checkpoint knows"
        " it; or as they come", choices=SCORE_NORMALIZATIONS,
    )  # fmt: skip
    fars: tuple[float, ...] = flag((), FARS_HELP, within=RATE)
    anonymous: bool = flag(False, ANONYMOUS_HELP)
    pairs: str | None = flag(None, "file with the pairs to score; else all pairs of images")
    groups: str | None = flag(None, "CSV of person or image and its group: figures by group are reported too")
    keep_norm: bool = flag(True, "of IJB's templates: images weigh by the length of their features")
    detector_scores: bool = flag(True, "of IJB's templates: images weigh by the detector's score")
    shortlist: int = flag(0, "match only images with their N nearest by embedding; 0 = all pairs", within=NOT_NEGATIVE)
    map_dtype: str = flag("float16", "how the maps to match are held", choices=MAP_DTYPES)
    map_dir: str | None = flag(None, "folder for files that hold them during the run; else they are in memory")
    arch: str | None = flag(None, "backbone, where the file does not tell", choices=ARCHS)
    color_space: str | None = flag(None, "channel order, where the file does not tell", choices=COLOR_SPACES)
    encoder: str | None = flag(None, ENCODER_HELP, choices=ENCODERS)
    occlude: str = flag("none", "images of each pair to occlude", choices=("none", "one", "both"))
    occluders: tuple[str, ...] = flag(
        OCCLUDERS, f"with what: all, or some of {', '.join(OCCLUDERS)}", choices=OCCLUDERS
    )
    occlusion_draws: int = flag(
        1, "how often to draw the occluders anew; figures are means over the draws", within="[1, 1000]"
    )
    seed: int = flag(42, "the occluders follow it", within=SEEDS)
