"""Options: what answers about a photograph rest on."""

from __future__ import annotations

from dataclasses import dataclass

from options.flags import Options, flag
from options.names import ALIGNMENTS, ARCHS, COLOR_SPACES, COUNT, DETECTOR_HELP, ENCODER_HELP, ENCODERS, SEEDS

SCORES = ("fused", "adaface", "qaconv")  # as of models.portraits; a test compares them
_RATE = "[1e-9, 0.5]"  # beyond, no data resolve it, or there is nothing to be sure of


@dataclass(frozen=True, kw_only=True)
class OpeningOptions(Options):
    """Model."""

    arch: str | None = flag(None, "backbone, where the file does not tell", choices=ARCHS)
    color_space: str | None = flag(None, "channel order, where the file does not tell", choices=COLOR_SPACES)
    encoder: str | None = flag(None, ENCODER_HELP, choices=ENCODERS)
    align: str = flag(
        "auto", "whether photographs are aligned; auto: as for the thresholds or the gallery; where there are none yet,"
        " if the faces do not lie as in the template", choices=ALIGNMENTS,
    )  # fmt: skip
    detector: str = flag("mtcnn", DETECTOR_HELP)


@dataclass(frozen=True, kw_only=True)
class ModelOptions(OpeningOptions):
    """Model."""

    model_path: str = flag("", "checkpoint of ours, or weights from elsewhere; needed")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model_path:
            raise ValueError("--model_path is missing")


@dataclass(frozen=True, kw_only=True)
class AnswerOptions(Options):
    """Answer."""

    score: str | None = flag(None, "which score decides; else fused where the model has it", choices=SCORES)
    calibration: str | None = flag(
        None, "file of thresholds that calibrate wrote; none: without; else the one beside the model, if it is there"
    )


@dataclass(frozen=True, kw_only=True)
class PairOptions(Options):
    """Two faces."""

    far: float | None = flag(
        None, "false-accept rate of the threshold; else, of the rates calibrated, the nearest to 1e-3", within=_RATE
    )
    impostors: str | None = flag(None, "people to rank the score among where there is no calibration; else drawn faces")
    picture: str | None = flag(None, "PNG to write: both faces, what is visible, and the cells that match best")


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(PairOptions, AnswerOptions, ModelOptions):
    """Options of `verify`."""


@dataclass(frozen=True, kw_only=True)
class ThresholdOptions(Options):
    """Calibration."""

    pairs: str | None = flag(None, "list of the pairs to use; else all pairs of photographs")
    fars: tuple[float, ...] = flag(
        (1e-2, 1e-3, 1e-4, 1e-5, 1e-6), "false-accept rates to find thresholds for", within=_RATE
    )
    max_pairs: int = flag(100_000, "most pairs of either half of the people", within="[2, inf)")
    draws: int = flag(1000, "draws of people behind an interval", within="[100, 100000]")
    seed: int = flag(0, "the split of the people, the masks and the draws follow it", within=SEEDS)
    output: str | None = flag(None, "file for the thresholds; else beside the model")


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions(ThresholdOptions, ModelOptions):
    """Options of `calibrate`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.fars:
            raise ValueError("--fars needs at least one rate")


@dataclass(frozen=True, kw_only=True)
class GalleryOptions(Options):
    """Gallery."""

    remove: tuple[str, ...] = flag(
        (), "name of a person to take out, commas and all; may be repeated", parse=lambda word: (word,)
    )
    map_dtype: str = flag("float16", "how a new gallery holds local maps", choices=("float16", "int8"))


@dataclass(frozen=True, kw_only=True)
class EnrolOptions(GalleryOptions, ModelOptions):
    """Options of `enrol`."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions(Options):
    """Search."""

    top: int = flag(5, "candidates to name", within=COUNT)
    fpir: float = flag(0.01, "share of strangers that may be taken for somebody", within=_RATE)


@dataclass(frozen=True, kw_only=True)
class IdentifyOptions(SearchOptions, AnswerOptions, ModelOptions):
    """Options of `identify`."""
