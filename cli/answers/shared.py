"""What the programs that answer have in common: the model, the thresholds, and how a photograph becomes a crop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from options.answers import AnswerOptions, ModelOptions
from system.cores import bound_waiting

if TYPE_CHECKING:  # torch is imported only after the options are known to be right
    from models import Aligner, Calibration, FaceModel

WITHOUT = "none"  # of --calibration


def load_model(options: ModelOptions) -> FaceModel:
    """Return the model of the options, on the CPU.

    Raises:
        FileNotFoundError, ValueError: one line that names the file.
    """
    bound_waiting()  # is read when torch is imported
    import models

    return models.load(options.model_path, options.arch, options.color_space)


def choose_aligner(options: ModelOptions) -> Aligner:
    """Return how a photograph becomes a crop: the one place where the programs that answer decide it."""
    from models import AS_GIVEN

    del options
    return AS_GIVEN


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
