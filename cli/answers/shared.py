"""What the programs that answer have in common: the model, the thresholds, and how a photograph becomes a crop."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from options.answers import AnswerOptions, ModelOptions, OpeningOptions
from system.cores import bound_waiting
from system.terminal import printable

if TYPE_CHECKING:  # torch is imported only after the options are known to be right
    from models import Aligner, Calibration, FaceModel
    from models.portraits import Origin

WITHOUT = "none"  # of --calibration


def load_model(options: ModelOptions) -> FaceModel:
    """Return the model of the options, on the CPU.

    Raises:
        FileNotFoundError, ValueError: one line that names the file.
    """
    bound_waiting()  # is read when torch is imported
    import models

    return models.load(options.model_path, options.arch, options.color_space, options.encoder)


def choose_aligner(
    model: FaceModel, options: OpeningOptions, photographs: Sequence[Path], recorded: Origin | None = None
) -> Aligner:
    """Return how a photograph becomes a crop: the one place where the programs that answer decide it.

    Args:
        model: where it says how the faces of its training were aligned, no other way is taken.
        options: with --align and --detector.
        photographs: that are to be answered about; with `auto` a sample of them is looked at.
        recorded: what the thresholds or the gallery in use were made with; with `auto` it decides.
    Raises:
        ValueError: if the detector cannot be opened, or is another one than that of the training.
    """
    from models import AS_GIVEN, Alignment, aligner

    if options.align == "no" or (options.align == "auto" and not _is_to_align(options, photographs, recorded)):
        return AS_GIVEN
    chosen = aligner(options.detector)
    if model.alignment is not None:
        model.alignment.refuse_other(Alignment.of(chosen._asdict()))
    return chosen


def _is_to_align(options: OpeningOptions, photographs: Sequence[Path], recorded: Origin | None) -> bool:
    """Return whether `auto` aligns; say what it rests on, where nothing is recorded.

    Raises:
        ValueError: if photographs are to be compared with what was made of crops.
    """
    from datasets.photos.people import MAX_OFF, detector_of_crop, look_at
    from models import AS_GIVEN, open_detector

    were_aligned = recorded is not None and recorded.detector != AS_GIVEN.detector
    if were_aligned or not photographs:
        return were_aligned
    finder = open_detector(options.detector)
    if recorded is None and all(detector_of_crop(path) == finder.name for path in photographs):
        say(f"crops that align made by {options.detector} are taken as they are; photographs will be aligned like them")
        return True
    sample = look_at(photographs, finder)
    are_photographs = sample.num_found > 0 and sample.off > MAX_OFF  # of one or two photographs, too
    if recorded is None:
        verdict = f"aligned by {options.detector}" if are_photographs else "taken as aligned crops"
        say(f"photographs are {verdict}: {sample}{'' if are_photographs else '; --align yes aligns them'}")
    elif are_photographs:
        raise ValueError(
            f"the thresholds or the gallery were made of aligned crops, and these are photographs ({sample}): align"
            " them with main.py align, or make thresholds and gallery of photographs; --align no takes them as they are"
        )
    return are_photographs


def say(line: str) -> None:
    """Write a remark to stderr, where it is no part of the answer."""
    sys.stderr.write(f"{printable(line, 500)}\n")


def find_calibration(options: AnswerOptions, model_path: str) -> Calibration | None:
    """Return the thresholds of the options: of the file given, else of the one beside the model, if it is there.

    Raises:
        OSError, ValueError: one line that names the file.
    """
    from models import Calibration
    from models.calibration import beside

    if options.calibration == WITHOUT:
        return None
    if options.calibration is not None:
        return Calibration.load(options.calibration)
    return Calibration.load(beside(model_path)) if beside(model_path).exists() else None


def check_writable(path: Path) -> None:
    """Refuse a file that cannot be written, before any work is done.

    Raises:
        ValueError: if its folder is missing, or it is a folder itself.
    """
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{path}: its folder does not exist")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give a file")
